"""Which day is read, logged and predicted when, through the real commands: lag, frozen schedule, test days."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

import experiments.catalog  # noqa: F401  fills the registries
from distill.checkpoint import file_hash, load_model
from distill.dataset import DataSet
from distill.load_config import load_config
from distill.stream import DayStream
from experiments.__main__ import main
from experiments.pipeline import environment
from experiments.pipeline.build import build_model
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

ONE_STUDENT = [EXPERIMENT["students"][0] | {"verticals": ["feed"], "channels": ["ah"]}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("data") / "mine", rows=300)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def small(folder: Path, data: Path, cache: Path, **changes: Any) -> Path:
    """An experiment of one seed, a teacher and one student with channels `none` and `ah`."""
    changes = {"seeds": [0], "students": ONE_STUDENT, "floor": False, **changes}
    return write_experiment(folder, data, cache, **changes)


def cells(folder: Path) -> dict[tuple[str, str], str]:
    """(model, channel) to cell_id."""
    with (folder / "cells.csv").open() as file:
        return {(row["model"], row["channel"]): row["cell_id"] for row in csv.DictReader(file)}


def predictions(folder: Path, cell_id: str, day: int) -> dict[int, tuple[float, ...]]:
    """example_id to its logits."""
    table = pq.read_table(folder / "predictions" / cell_id / "0.parquet", filters=[("day", "=", day)])
    logits = [table[name].to_pylist() for name in table.column_names if name.startswith("logit_")]
    return dict(zip(table["example_id"].to_pylist(), zip(*logits, strict=True), strict=True))


def logged(folder: Path, day: int) -> tuple[dict[int, tuple[float, ...]], dict[str, Any]]:
    """example_id to the logits of a day's log, and the manifest."""
    table = pq.read_table(folder / f"day-{day:04d}.parquet")
    logits = zip(table["logit_click"].to_pylist(), table["logit_order"].to_pylist(), strict=True)
    manifest = json.loads((folder / f"day-{day:04d}.json").read_text())
    return dict(zip(table["example_id"].to_pylist(), logits, strict=True)), manifest


def test_log_of_lag_zero_is_what_the_teacher_predicted(data: Path, cache: Path, tmp_path: Path) -> None:
    config = small(tmp_path / "a", data, cache, schedule__lag=0)
    assert main(["run", str(config)]) == 0
    out = tmp_path / "a" / "out"
    log = out / "teacher_log" / "0" / "lag-0"
    assert sorted(path.name for path in log.glob("*.json")) == [f"day-000{day}.json" for day in (2, 3, 4, 5)]
    for day in (2, 3, 4, 5):
        logits, manifest = logged(log, day)
        assert logits == predictions(out, cells(out)["gem", "none"], day)
        assert (manifest["trained_through"], manifest["lag"], manifest["rows"]) == (day - 1, 0, 300)


def predicted_by(config: Path, snapshot: Path, day: int, cache: Path) -> dict[int, tuple[float, ...]]:
    """What the teacher says of a day with the parameters of one snapshot."""
    loaded = load_config(config)
    teacher = loaded.config.teacher
    assert teacher is not None
    (prepared,) = [DataSet.open(path) for path in cache.iterdir() if not path.name.startswith(".")]
    model = build_model("teacher", teacher, teacher.optimizer, prepared.schema, 5, loaded.base).eval()
    load_model(model, snapshot)
    stream = DayStream(prepared, day, 100, model.features, model.dense_features, model.history_length)
    with torch.inference_mode():
        found = [(batch.example_id, model(batch).logits) for batch in stream]
    ids = torch.cat([ids for ids, _ in found]).tolist()
    return dict(zip(ids, map(tuple, torch.cat([logits for _, logits in found]).tolist()), strict=True))


def test_log_of_lag_three_is_by_the_snapshot_of_four_days_before(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    days = {"schedule__lag": 3, "schedule__tune_days": [5, 6], "schedule__test_days": []}
    config = small(tmp_path / "a", data, cache, **days)
    assert main(["teacher", str(config)]) == 0
    assert main(["log", str(config)]) == 0
    out = tmp_path / "a" / "out"
    log, snapshot = out / "teacher_log" / "0" / "lag-3", out / "teacher/0/snapshots/day-0001.safetensors"
    assert sorted(path.name for path in log.glob("*.json")) == ["day-0005.json", "day-0006.json"]
    logits, manifest = logged(log, 5)
    assert (manifest["trained_through"], manifest["lag"]) == (1, 3)
    assert manifest["checkpoint"] == file_hash(snapshot)
    assert logits == predicted_by(config, snapshot, 5, cache)


def test_domain_teacher_before_the_students_first_day_learns_from_labels_alone(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    """It trains on days 1 to 4, students on 3 and 4; at lag 0 days 3 to 5 are logged."""
    days = {"tune_days": [4, 5], "test_days": [], "lag": 0, "student_first_day": 3}
    domain = ONE_STUDENT[0] | {"name": "apps", "channel": "ah"}
    del domain["channels"]
    config = small(tmp_path / "a", data, cache, schedule=days, domain_teachers=[domain])
    assert main(["run", str(config)]) == 0
    out = tmp_path / "a" / "out"
    report = json.loads((out / "checkpoints" / cells(out)["apps", "ah"] / "0" / "report.json").read_text())
    told = {day["day"]: day["means"]["ah/loss"] > 0 for day in report["days"]}
    assert told == {1: False, 2: False, 3: True, 4: True}


def test_frozen_teacher_and_students(data: Path, cache: Path, tmp_path: Path) -> None:
    days = {"kind": "frozen", "teacher_days": 2, "student_last_day": 4, "tune_days": [4, 5], "test_days": [6]}
    config = small(tmp_path / "a", data, cache, schedule=days)
    assert main(["run", str(config)]) == 0
    out = tmp_path / "a" / "out"
    of, snapshot = cells(out), out / "teacher/0/snapshots/day-0002.safetensors"
    log = out / "teacher_log" / "0" / "frozen"
    assert sorted(path.name for path in log.glob("*.json")) == [f"day-000{day}.json" for day in (3, 4, 5)]
    for day in (3, 4, 5):
        logits, manifest = logged(log, day)
        assert manifest["trained_through"] == 2
        assert (
            logits == predictions(out, of["gem", "none"], day) == predicted_by(config, snapshot, day, cache)
        )
    report = json.loads((out / "checkpoints" / of["small", "ah"] / "0" / "report.json").read_text())
    assert [day["day"] for day in report["days"]] == [3, 4]
    assert all(day["means"]["ah/loss"] > 0 for day in report["days"])
    table = pq.read_table(out / "predictions" / of["small", "ah"] / "0.parquet")
    assert set(table["day"].to_pylist()) == {4, 5}
    for row in json.loads((out / "results.json").read_text())["transfer"]:
        assert row["schedule"] == "frozen" and row["delta_fm"] is not None


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trace of readings of the test days, elsewhere."""
    path = tmp_path / "results" / "test_reads.csv"
    monkeypatch.setattr(environment, "TEST_READS", path)
    return path


def trained_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but the floor's, whose logits depend on the number of days in the seventh digit."""
    return [row for row in rows if row["role"] != "floor"]


def test_test_days_are_read_under_final_alone_and_that_is_recorded(
    data: Path, cache: Path, tmp_path: Path, reads: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prepared,) = [path for path in cache.iterdir() if path.name.startswith("parquet-")]
    shutil.copytree(prepared, tmp_path / "cache" / prepared.name)
    test_day = tmp_path / "cache" / prepared.name / "days" / "day=0006" / "part-0.parquet"
    whole = test_day.read_bytes()
    test_day.write_bytes(b"unreadable")
    config = small(tmp_path / "a", data, tmp_path / "cache", floor=True)
    out = tmp_path / "a" / "out"

    assert main(["run", str(config)]) == 0
    ordinary = json.loads((out / "results.json").read_text())["rows"]
    assert {row["split"] for row in ordinary} == {"tune"} and not reads.exists()
    tuned = {path: path.read_bytes() for path in out.rglob("day-*.safetensors")}

    assert main(["run", str(config), "--final", "first look"]) == 2
    assert "day=0006/part-0.parquet: not readable as Parquet" in capsys.readouterr().err

    test_day.write_bytes(whole)
    assert main(["run", str(config), "--final", 'tables of the paper, by "us"']) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert {row["split"] for row in rows} == {"tune", "test"}
    assert trained_rows([row for row in rows if row["split"] == "tune"]) == trained_rows(ordinary)
    assert {path: path.read_bytes() for path in tuned} == tuned
    with reads.open(newline="") as file:
        traced = list(csv.DictReader(file))
    assert [row["reason"] for row in traced] == ["first look", 'tables of the paper, by "us"']
    status = json.loads((out / "status.json").read_text())
    assert {row["config_hash"] for row in traced} == {status["config_hash"]}
    assert status["final"] == traced[1]["reason"] and all(row["time"] and row["git_commit"] for row in traced)

    trained = {path: path.stat().st_mtime_ns for path in out.glob("checkpoints/*/*/*")}
    test_day.write_bytes(b"unreadable")
    assert main(["run", str(config)]) == 0
    again = json.loads((out / "results.json").read_text())["rows"]
    assert {row["split"] for row in again} == {"tune"} and trained_rows(again) == trained_rows(ordinary)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained, "trained again after a final run"


def test_refused_final_run_leaves_no_trace(
    data: Path, cache: Path, tmp_path: Path, reads: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path / "a", data, cache, schedule__test_days=[])
    assert main(["run", str(config), "--final", "why not"]) == 2
    assert "schedule.test_days: got an empty list" in capsys.readouterr().err
    assert not reads.exists()


def test_surface_without_rows_on_a_day_is_trained_on_the_others(tmp_path: Path) -> None:
    data = write_days(tmp_path / "mine", days=5, rows=200, without=("feed", 3))
    days = {"tune_days": [4, 5], "test_days": []}
    config = small(tmp_path / "a", data, tmp_path / "cache", teacher=None, channels={}, schedule=days)
    config.write_text(config.read_text().replace("- ah", "- none"))
    assert main(["run", str(config)]) == 0
    out = tmp_path / "a" / "out"
    cell_id = cells(out)["small", "none"]
    report = json.loads((out / "checkpoints" / cell_id / "0" / "report.json").read_text())
    assert [day["day"] for day in report["days"]] == [1, 2, 4]
    table = pq.read_table(out / "predictions" / cell_id / "0.parquet")
    np.testing.assert_array_equal(np.unique(table["day"].to_numpy()), [2, 4, 5])


def test_surface_without_rows_on_the_tune_days_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_days(tmp_path / "mine", days=4, rows=200, without=("feed", 4))
    days = {"tune_days": [4], "test_days": []}
    config = small(tmp_path / "a", data, tmp_path / "cache", schedule=days)
    assert main(["run", str(config)]) == 2
    assert "vertical 'feed' has no rows to predict on the tune days [4]" in capsys.readouterr().err


def test_training_that_goes_wrong_says_where_and_leaves_a_readable_folder(
    data: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path / "a", data, cache, teacher__optimizer={"learning_rate": 1e38, "batch_size": 100})
    assert main(["run", str(config)]) == 1
    message = capsys.readouterr().err
    assert "distill: NonFiniteError: loss is" in message and "on day 1, batch " in message
    status = json.loads((tmp_path / "a" / "out" / "status.json").read_text())
    assert status["state"] == "failed" and "nothing was updated" in status["error"]
    assert not list(tmp_path.rglob("*.partial"))


def own_architecture(folder: Path, data: Path, cache: Path, **options: Any) -> Path:
    file = Path(__file__).parents[2] / "experiments" / "examples" / "my_student.py"
    student = {"name": "own", "architecture": f"{file}:MyStudent", "verticals": ["feed"], "options": options}
    days = {"tune_days": [4], "test_days": []}
    return small(folder, data, cache, teacher=None, channels={}, students=[student], schedule=days)


def test_architecture_of_ones_own(data: Path, cache: Path, tmp_path: Path) -> None:
    config = own_architecture(tmp_path / "a", data, cache, dim=4, hidden=3)
    assert main(["run", str(config)]) == 0
    out = tmp_path / "a" / "out"
    cell_id = cells(out)["own", "none"]
    with safe_open(out / "checkpoints" / cell_id / "0" / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("layer.weight").shape[0] == 3


def test_option_that_ones_own_architecture_does_not_take_is_named(
    data: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = own_architecture(tmp_path / "a", data, cache, dim=4, hiden=3)
    assert main(["run", str(config)]) == 2
    assert "options: got 'hiden', allowed: hidden" in capsys.readouterr().err


def test_student_that_asks_for_what_the_teacher_does_not_learn_is_refused_at_once(
    data: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(tmp_path / "a", data, cache, teacher__tasks=["click"])
    assert main(["run", str(config)]) == 2
    assert "got order, which the teacher does not learn; allowed: click" in capsys.readouterr().err
    assert not (tmp_path / "a" / "out").exists()


def test_labels_that_are_not_final_yet_are_learnt_from_when_asked(cache: Path, tmp_path: Path) -> None:
    """With the first days' outcomes counted, `weighted` trains on the rows of the late hours too."""
    many = write_days(tmp_path / "many", rows=2400)
    found = {}
    for rule in ("matured", "weighted"):
        config = small(tmp_path / rule, many, cache, students=[], teacher__delayed_labels=rule)
        assert main(["teacher", str(config)]) == 0
        out = tmp_path / rule / "out"
        (cell,) = (out / "predictions").iterdir()
        found[rule] = [predictions(out, cell.name, day) for day in (2, 5)]
    # Before day 2 no outcome is counted, and both train on what is final.
    assert found["matured"][0] == found["weighted"][0]
    assert found["matured"][1] != found["weighted"][1]
