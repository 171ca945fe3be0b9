"""One tiny experiment through the real `distill run`: its folder, its predictions, every figure of its results."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.__main__ import main
from experiments.quantity import quantity
from experiments.recorded import read_run
from experiments.watch import so_far
from tests.experiments import recompute
from tests.experiments.tiny_experiment import TASKS, VERTICALS, raw_rows, write_days, write_experiment

SEEDS = (0, 1)
TUNE = (4, 5)
SMALL = [("small", vertical, channel) for vertical in VERTICALS for channel in ("none", "single", "ah")]
MODELS = [("gem", "all", "none"), ("logistic_regression", "all", "none"), *SMALL]
MODELS += [("clicks", "feed", channel) for channel in ("none", "ah")]
DERIVED = {
    "cells.csv",
    "metrics.jsonl",
    "report.html",
    "results.json",
    "status.json",
    "versions.json",
    "config.yaml",
}


def tasks_of(model: str) -> tuple[str, ...]:
    return ("click",) if model == "clicks" else TASKS


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        data: folder of the data as it was written.
        config: the experiment file.
        printed: what the command wrote to standard output.
        said: what it wrote to standard error.
    """

    data: Path
    config: Path
    printed: str
    said: str

    @property
    def folder(self) -> Path:
        return self.config.parent / "out"

    @cached_property
    def cells(self) -> dict[tuple[str, str, str], str]:
        """(model, vertical, channel) to cell_id."""
        with (self.folder / "cells.csv").open() as file:
            return {(r["model"], r["vertical"], r["channel"]): r["cell_id"] for r in csv.DictReader(file)}

    @cached_property
    def results(self) -> dict[str, Any]:
        return json.loads((self.folder / "results.json").read_text())

    def report(self, model: str, vertical: str, channel: str) -> dict[str, Any]:
        """What the training with seed 0 left behind."""
        folder = self.folder / "checkpoints" / self.cells[model, vertical, channel] / "0"
        return json.loads((folder / "report.json").read_text())

    def predictions(self, model: str, vertical: str, channel: str, seed: int) -> list[Path]:
        """Files that hold the rows of a vertical, or of all ("pooled"), of one model."""
        if (model, "all", channel) in self.cells:
            wanted: Iterable[str] = ("all",)
        else:
            wanted = VERTICALS if vertical == "pooled" else (vertical,)
        ids = [self.cells[model, one, channel] for one in wanted]
        return [self.folder / "predictions" / cell_id / f"{seed}.parquet" for cell_id in ids]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("data") / "mine")


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The experiment, run."""
    folder = tmp_path_factory.mktemp("run")
    config = write_experiment(folder / "one", data, folder / "cache")
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        assert main(["run", str(config)]) == 0
    return Finished(data, config, printed.getvalue(), said.getvalue())


RUN_LOCK = ".locks/run"


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_run_folder_holds_what_the_protocol_names(done: Finished) -> None:
    expected = {*DERIVED, RUN_LOCK}
    for seed, day in product(SEEDS, (1, 2, 3, 4)):
        expected.add(f"teacher/{seed}/snapshots/day-{day:04d}.safetensors")
    for seed, day, kind in product(SEEDS, (3, 4, 5), ("json", "parquet")):
        expected.add(f"teacher_log/{seed}/lag-1/day-{day:04d}.{kind}")
    for (model, vertical, channel), seed in product(MODELS, SEEDS):
        cell_id = done.cells[model, vertical, channel]
        expected.add(f"predictions/{cell_id}/{seed}.parquet")
        if model != "logistic_regression":
            expected |= {
                f"checkpoints/{cell_id}/{seed}/{name}" for name in ("model.safetensors", "report.json")
            }
            expected.add(f".locks/{cell_id}-{seed}")
    assert files_of(done.folder) == expected


def test_cells_are_listed_with_what_they_are(done: Finished) -> None:
    with (done.folder / "cells.csv").open() as file:
        rows = {(r["model"], r["vertical"], r["channel"]): r for r in csv.DictReader(file)}
    assert set(rows) == set(MODELS)
    shared = {"experiment": "tiny", "schedule": "progressive", "route": "direct"}
    for (model, _, _), row in rows.items():
        assert shared.items() <= row.items()
        student = model in ("small", "clicks")
        assert row["role"] == {"gem": "teacher", "logistic_regression": "floor"}.get(model, "student")
        assert (row["inputs"], row["lag"]) == (
            "rich" if model in ("gem", "clicks") else "thin",
            "1" if student else "0",
        )


@pytest.mark.parametrize(("model", "vertical", "channel"), [MODELS[0], MODELS[1], SMALL[1], MODELS[-1]])
def test_predictions_hold_the_days_rows_and_final_labels(
    done: Finished, model: str, vertical: str, channel: str
) -> None:
    days = (2, 3, 4, 5)
    raw = [raw_rows(done.data, day) for day in days]
    columns = {name: np.concatenate([rows[name] for rows in raw]) for name in raw[0]}
    columns["day"] = np.repeat(days, [len(rows["user_id"]) for rows in raw])
    if model == "logistic_regression":  # needs earlier days of its own: one to count, one to train on
        columns = {name: values[columns["day"] >= 3] for name, values in columns.items()}
    if vertical != "all":
        columns = {name: values[columns["domain"] == vertical] for name, values in columns.items()}
    (path,) = done.predictions(model, vertical, channel, seed=1)
    table = pq.read_table(path)
    tasks = tasks_of(model)
    names = ["example_id", "user_id", "timestamp", "day", "domain", "split"]
    assert table.column_names == [
        *names,
        *(f"{kind}_{task}" for task in tasks for kind in ("logit", "label")),
    ]
    order = np.argsort(table["example_id"].to_numpy())
    for name in ["example_id", "user_id", "timestamp", "day", "domain", *(f"label_{task}" for task in tasks)]:
        np.testing.assert_array_equal(table[name].to_numpy()[order], columns[name])
    split = np.where(np.isin(table["day"].to_numpy(), TUNE), "tune", "train")
    assert table["split"].to_pylist() == split.tolist()


def rows_of(done: Finished) -> dict[tuple[str, str, str, str, int], dict[str, Any]]:
    keys = ("model", "vertical", "channel", "task", "seed")
    assert {row["split"] for row in done.results["rows"]} == {"tune"}
    return {tuple(row[key] for key in keys): row for row in done.results["rows"]}


def scored() -> list[tuple[str, str, str, str]]:
    """(model, vertical, channel, task) that must be scored."""
    places = [(m, v, c) for m, of, c in MODELS for v in ((*VERTICALS, "pooled") if of == "all" else (of,))]
    places += [("small", "pooled", channel) for channel in ("none", "single", "ah")]
    return [(*place, task) for place in places for task in tasks_of(place[0])]


def test_every_model_is_scored_on_every_row_set(done: Finished) -> None:
    expected = {(*place, seed) for place in scored() for seed in SEEDS}
    assert rows_of(done).keys() == expected and len(done.results["rows"]) == len(expected)


@pytest.mark.parametrize("vertical", [*VERTICALS, "pooled"])
def test_every_score_is_scikit_learns(done: Finished, vertical: str) -> None:
    rates = {task: recompute.base_rate(done.data, range(1, 6), vertical, task) for task in TASKS}
    with_gauc = 0
    for (model, where, channel, task, seed), row in rows_of(done).items():
        if where == vertical:
            columns = recompute.read(done.predictions(model, vertical, channel, seed), "tune", vertical)
            expected = recompute.scores(columns, task, rates[task])
            found = {name: row[name] for name in expected}
            assert (found.pop("gauc") or 0) == pytest.approx(expected.pop("gauc") or 0, rel=1e-6)
            assert found == pytest.approx(expected, rel=1e-6), (model, channel, task, seed)
            assert row["oracle_ne"] is None
            with_gauc += row["gauc"] is not None
    assert bool(with_gauc) == (vertical == "pooled"), "a GAUC where there are 200 users with both classes"


@cache
def mean_losses(done: Finished, model: str, vertical: str, channel: str, task: str) -> dict[str, float]:
    """L of a model on a vertical, mean over seeds."""
    p = recompute.base_rate(done.data, range(1, 6), vertical, task)
    of_seeds = [
        recompute.losses(
            recompute.read(done.predictions(model, vertical, channel, seed), "tune", vertical), task, p
        )
        for seed in SEEDS
    ]
    return {measure: float(np.mean([one[measure] for one in of_seeds])) for measure in of_seeds[0]}


def test_every_transfer_ratio_has_its_numerator_and_denominator(done: Finished) -> None:
    keys = ("model", "channel", "vertical", "task", "measure")
    found = {tuple(row[key] for key in keys): row for row in done.results["transfer"]}
    groups = [("small", channel, task) for channel in ("single", "ah") for task in TASKS]
    expected_keys = set()
    for model, channel, task in [*groups, ("clicks", "ah", "click")]:
        verticals = VERTICALS if model == "small" else ("feed",)
        sets: dict[str, tuple[str, ...]] = {vertical: (vertical,) for vertical in verticals}
        sets |= {"macro": verticals} if len(verticals) > 1 else {}
        base = {v: mean_losses(done, model, v, "none", task) for v in verticals}
        own = {v: mean_losses(done, model, v, channel, task) for v in verticals}
        teacher = {v: mean_losses(done, "gem", v, "none", task) for v in verticals}
        for (name, members), measure in product(sets.items(), ("ne", "auc", "ne_intercept")):
            row = found[model, channel, name, task, measure]
            expected_keys.add((model, channel, name, task, measure))
            numerator = sum(base[v][measure] - own[v][measure] for v in members)
            denominator = sum(base[v][measure] - teacher[v][measure] for v in members)
            assert row["delta_vm"] == pytest.approx(numerator, abs=1e-7)
            assert row["delta_fm"] == pytest.approx(denominator, abs=1e-7)
            assert row["seeds"] == 2 and row["split"] == "tune" and row["lag"] == 1
            if row["tr"] is not None:
                assert row["tr"] == pytest.approx(numerator / denominator, rel=1e-5)
                assert row["tr_low"] <= row["tr"] <= row["tr_high"]
    assert found.keys() == expected_keys


def test_metrics_and_timing_tell_what_was_trained(done: Finished) -> None:
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    of_ah = [
        line for line in lines if line["cell_id"] == done.cells["small", "feed", "ah"] and line["seed"] == 0
    ]
    counts = [int((raw_rows(done.data, day)["domain"] == "feed").sum()) for day in (1, 2, 3, 4)]
    assert [line["day"] for line in of_ah] == [1, 2, 3, 4]
    assert [line["examples_seen"] for line in of_ah] == np.cumsum(counts).tolist()
    assert {"loss_labels", "ah/loss", "ah/clipped"} == set(of_ah[0]["means"])
    assert of_ah[0]["means"]["ah/loss"] == 0 < of_ah[2]["means"]["ah/loss"], "no signal before day 3 at lag 1"
    timing = done.results["timing"]
    assert timing.keys() == {done.cells[place] for place in MODELS if place[0] != "logistic_regression"}
    assert timing[done.cells["small", "feed", "ah"]]["0"]["examples"] == sum(counts)


def test_sizes_are_told_before_training(done: Finished) -> None:
    titles = [line.partition(":")[0] for line in done.said.splitlines()]
    sizes = [title for title in titles if title.endswith(" size")]
    assert sizes == ["gem all size", "small feed size", "clicks feed size"]
    assert titles.index("gem all size") < titles.index("gem all none seed 0 day 1")
    trained = next(n for n, title in enumerate(titles) if re.fullmatch("small feed .*seed 0.* day 1", title))
    assert titles.index("clicks feed size") < trained
    (line,) = (line for line in done.said.splitlines() if line.startswith("small feed size: "))
    found = re.fullmatch(
        r".* s, dense parameters (\d+), in tables (\d.*), FLOPs per example (\d.*) forward, (\d.*) in training",
        line,
    )
    assert found is not None
    assert found[2] == quantity((240 + 60) * (4 + 4))
    report = done.report("small", "feed", "ah")
    assert found[1] == quantity(report["dense_parameters"])
    assert found[3] == quantity(report["forward_flops_per_example"])
    assert found[4] == quantity(report["flops_per_example"])


def test_speed_and_flops_of_every_day_are_recorded(done: Finished) -> None:
    cell_id = done.cells["small", "feed", "ah"]
    report = done.report("small", "feed", "ah")
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    days = [line for line in lines if line["cell_id"] == cell_id and line["seed"] == 0]
    examples = np.diff([0, *(day["examples_seen"] for day in days)])
    for day, count in zip(days, examples, strict=True):
        assert day["examples_per_s"] == pytest.approx(count / day["seconds"])
        assert day["flops_per_example"] == report["flops_per_example"], (
            "without a history every day costs the same"
        )
        assert 0 < day["mfu"] < 1
    assert report["train_flops"] == pytest.approx(report["flops_per_example"] * examples.sum())
    timing = done.results["timing"][cell_id]["0"]
    assert timing["flops_per_example"] == report["flops_per_example"]
    assert timing["train_flops"] == report["train_flops"]


def test_flops_of_the_teacher_grow_with_its_histories(done: Finished) -> None:
    report = done.report("gem", "all", "none")
    per_day = [day["flops_per_example"] for day in report["days"]]
    assert per_day == sorted(per_day) and per_day[0] < per_day[-1]
    # Counted on the last day before the tune days, whose histories are longer than on the first.
    assert per_day[0] < report["flops_per_example"] < 1.2 * per_day[2]


def test_status_versions_and_hash_are_recorded(done: Finished) -> None:
    status = json.loads((done.folder / "status.json").read_text())
    assert (status["state"], status["final"]) == ("done", None)
    versions = json.loads((done.folder / "versions.json").read_text())
    assert versions == done.results["versions"] and {"python", "torch", "torchrec"} <= versions.keys()
    assert done.results["config_hash"] == status["config_hash"]


def test_last_lines_judge_the_run_and_name_the_report(done: Finished) -> None:
    lines = done.printed.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("tiny: "))
    judged, summary = lines[:begin], lines[begin:]
    assert judged and all(line.startswith(("ok     ", "BROKEN ")) for line in judged)
    assert len(summary) <= 10 and summary[-1] == f"Report: {done.folder / 'report.html'}"
    assert [line[7:17] for line in judged[:2]] == ["tune click", "tune order"]


def times(folder: Path, names: Iterable[str]) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in names}


def test_second_run_does_nothing_again(done: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {
        name for name in files_of(done.folder) - DERIVED - {RUN_LOCK} if done.cells[MODELS[1]] not in name
    }
    before, results = times(done.folder, kept), done.results
    assert main(["run", str(done.config)]) == 0
    assert times(done.folder, kept) == before
    again = json.loads((done.folder / "results.json").read_text())
    assert all(again[key] == results[key] for key in ("rows", "transfer", "timing"))
    assert not any(word in capsys.readouterr().err for word in ("gem", "small", "clicks", "parquet"))


@pytest.fixture(scope="module")
def stepwise(done: Finished) -> Path:
    """The same experiment step by step, with two workers, in a folder of its own."""
    folder = done.folder.parent / "stepwise"
    options = ["--set", f"output={folder}", "--set", "workers=2"]
    for step in ("teacher", "log", "student"):
        assert main([step, str(done.config), *options]) == 0
    return folder


def test_steps_alone_with_two_workers_predict_what_the_run_with_one_did(
    done: Finished, stepwise: Path
) -> None:
    trained = [cell_id for place, cell_id in done.cells.items() if place[0] != "logistic_regression"]
    for cell_id, seed in product(trained, SEEDS):
        name = f"predictions/{cell_id}/{seed}.parquet"
        assert pq.read_table(stepwise / name).equals(pq.read_table(done.folder / name)), name


def test_steps_alone_leave_the_same_snapshots_and_log(done: Finished, stepwise: Path) -> None:
    names = [name for name in files_of(done.folder) if name.startswith(("teacher/", "teacher_log/"))]
    assert len(names) == 20
    assert [
        name for name in names if (stepwise / name).read_bytes() != (done.folder / name).read_bytes()
    ] == []


def test_steps_alone_score_nothing(stepwise: Path) -> None:
    assert not (stepwise / "results.json").exists()
    assert json.loads((stepwise / "status.json").read_text())["state"] == "done"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("log", "no snapshot .*day-0001.safetensors. Train the teacher first"),
        ("student", "teacher log: no folder .*Write it first"),
    ],
)
def test_step_before_its_time_says_what_is_missing(
    done: Finished, tmp_path: Path, step: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([step, str(done.config), "--set", f"output={tmp_path / 'out'}"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_run_that_is_not_scored_yet_is_scored_for_those_who_watch(done: Finished, tmp_path: Path) -> None:
    """What is trained with all seeds has the scores that it will have; the folder stays as it is."""
    folder = Path(shutil.copytree(done.folder, tmp_path / "out"))
    for name in ("results.json", "cells.csv"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints" / done.cells["clicks", "feed", "ah"] / "1")
    before = files_of(folder)
    seen = so_far(read_run(folder))
    missing = done.cells["clicks", "feed", "ah"]
    assert seen.rows == [row for row in done.results["rows"] if row["cell_id"] != missing]
    assert seen.transfer == [row for row in done.results["transfer"] if row["model"] != "clicks"]
    assert seen.timing == {cell: time for cell, time in done.results["timing"].items() if cell != missing}
    assert files_of(folder) == before and so_far(read_run(done.folder)).rows == done.results["rows"]
