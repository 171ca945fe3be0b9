"""Offline W&B runs hold what results.json and the predictions say, and go on after an interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import log_loss, roc_auc_score

from distill.errors import UserError
from distill.predictions import read_predictions
from distill.results import SCORE_COLUMNS, read_results
from experiments.tracking import RUNS, NoTracker
from tests.experiments.offline_runs import (
    Records,
    cell_of,
    header,
    history,
    inspect,
    records_of,
    summary,
    tracker_of,
)
from tests.experiments.synthetic_run import NOISE, write_synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_synthetic_run(tmp_path_factory.mktemp("tracking") / "run", seeds=(0, 1))
    tracker = tracker_of(folder)
    for cell in (cell_of(folder, role="teacher"), cell_of(folder, vertical="feed", channel="ah")):
        tracker.start(cell)
        tracker.finish(cell)
    return folder


@pytest.fixture(scope="module")
def student(run: Path) -> Records:
    return records_of(run, cell_of(run, vertical="feed", channel="ah"))


def test_run_says_what_it_is(student: Records) -> None:
    run = header(student)
    assert (run["run_group"], run["job_type"], run["project"]) == ("synthetic", "student", "test")
    assert set(run["tags"]) == {"student:deepfm", "feed", "ah", "deepfm"}
    assert run["config"]["update"]["cell"]["vertical"] == "feed"
    assert run["config"]["update"]["schedule"]["lag"] == 1


def test_every_curve_is_drawn_over_examples_seen(student: Records) -> None:
    metrics = [record["metric"] for record in student if record["type"] == "metric"]
    assert {"glob_name": "*", "step_metric": "examples_seen"}.items() <= metrics[-1].items()
    days = [point for point in history(student) if "day" in point]
    # The reports say 780 examples a day; day n is predicted with what was trained through day n - 1.
    assert [(point["day"], point["examples_seen"]) for point in days] == [
        (n, 780 * (n - 1)) for n in range(2, 12)
    ]


def test_curves_agree_with_the_predictions(run: Path, student: Records) -> None:
    cell = cell_of(run, vertical="feed", channel="ah")
    point = next(point for point in history(student) if point.get("day") == 5)
    aucs, losses, calibrations = [], [], []
    for seed in (0, 1):
        rows = read_predictions(run / "predictions" / cell.cell_id / f"{seed}.parquet")
        rows = rows.take(rows.day == 5)
        p = 1 / (1 + 2.718281828459045 ** -rows.logits["click"].astype(float))
        aucs.append(roc_auc_score(rows.labels["click"], p))
        losses.append(log_loss(rows.labels["click"], p))
        calibrations.append(p.sum() / rows.labels["click"].sum())
        assert point[f"seeds/{seed}/feed/click/auc"] == pytest.approx(aucs[-1])
    row = next(r for r in read_results(run / "results.json")["rows"] if r["cell_id"] == cell.cell_id)
    assert point["feed/click/auc"] == pytest.approx(sum(aucs) / 2)
    assert point["feed/click/calibration"] == pytest.approx(sum(calibrations) / 2)
    assert point["feed/click/ne"] == pytest.approx(sum(losses) / 2 * row["ne"] / row["logloss"])
    # The standard deviation of two values is their distance / sqrt(2).
    assert point["feed/click/auc_high"] - point["feed/click/auc_low"] == pytest.approx(
        abs(aucs[0] - aucs[1]) * 2**0.5
    )


def test_speed_of_the_day_trained_before_is_a_curve(student: Records) -> None:
    days = {point["day"]: point for point in history(student) if "day" in point}
    assert [days[n]["training/examples_per_s"] for n in (2, 3, 11)] == [
        100.5,
        200.5,
        1000.5,
    ]  # mean of two seeds
    assert [days[n].get("training/mfu") for n in (2, 3)] == [None, pytest.approx(0.02)]


def test_summary_equals_results(run: Path, student: Records) -> None:
    cell, results, found = (
        cell_of(run, vertical="feed", channel="ah"),
        read_results(run / "results.json"),
        summary(student),
    )
    rows = [row for row in results["rows"] if row["cell_id"] == cell.cell_id and row["task"] == "conversion"]
    for column in SCORE_COLUMNS:
        values = [row[column] for row in rows]
        mean = None if None in values else pytest.approx(sum(values) / len(values))
        assert found[f"final/tune/feed/conversion/{column}"] == mean, column
    ratios = [
        row for row in results["transfer"] if row["channel"] == "ah" and row["vertical"] in ("feed", "macro")
    ]
    assert len(ratios) == 12  # two row sets, two tasks, three measures
    for row in ratios:
        assert found[f"transfer/tune/{row['vertical']}/{row['task']}/{row['measure']}"] == row["tr"]


def table_of(run: Path, run_id: str, name: str) -> list[dict[str, Any]]:
    """Rows of a table of an offline run."""
    (path,) = (run / "wandb").glob(f"offline-run-*-{run_id}/files/media/table/{name}_*.json")
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_seeds_are_a_table(run: Path) -> None:
    cell = cell_of(run, vertical="feed", channel="ah")
    run_id = json.loads((run / RUNS).read_text())[cell.cell_id]["id"]
    found = table_of(run, run_id, "seeds")
    rows = [row for row in read_results(run / "results.json")["rows"] if row["cell_id"] == cell.cell_id]
    assert [(row["seed"], row["task"], row["ne"]) for row in found] == [
        (r["seed"], r["task"], r["ne"]) for r in rows
    ]


def test_transfer_is_a_table_with_intervals(run: Path) -> None:
    cell = cell_of(run, vertical="feed", channel="ah")
    found = table_of(run, json.loads((run / RUNS).read_text())[cell.cell_id]["id"], "transfer_intervals")
    rows = read_results(run / "results.json")["transfer"]
    assert found == [r for r in rows if r["channel"] == "ah" and r["vertical"] in ("feed", "macro")]


def test_cost_is_in_the_summary(run: Path, student: Records) -> None:
    cell, found = cell_of(run, vertical="feed", channel="ah"), summary(student)
    timing = read_results(run / "results.json")["timing"][cell.cell_id].values()
    assert found["cost/cpu_seconds"] == pytest.approx(sum(seed["cpu_seconds"] for seed in timing) / 2)
    assert found["cost/flops_per_example"] == 150_000
    assert found["cost/parameters"] == 840_000


def test_teacher_has_curves_of_every_vertical(run: Path) -> None:
    cell = cell_of(run, role="teacher")
    point = next(point for point in history(records_of(run, cell)) if point.get("day") == 9)
    assert {"feed/click/ne", "reels/click/ne", "stories/conversion/auc"} <= set(point)


def test_floor_has_scores_but_no_curve(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", noise={**NOISE, "floor": 0.6}, seeds=(0,))
    cell = cell_of(folder, role="floor")
    tracker_of(folder).finish(cell)
    records = records_of(folder, cell)
    assert [point for point in history(records) if "day" in point] == []
    row = next(r for r in read_results(folder / "results.json")["rows"] if r["cell_id"] == cell.cell_id)
    assert summary(records)["final/tune/feed/click/ne"] == pytest.approx(row["ne"])


def test_id_is_saved_at_the_start_and_kept(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", seeds=(0,))
    cell = cell_of(folder, vertical="feed", channel="ah")
    tracker_of(folder).start(cell)
    saved = json.loads((folder / RUNS).read_text())
    assert not (folder / "wandb").exists()
    tracker_of(folder).start(cell)
    assert json.loads((folder / RUNS).read_text()) == saved


def test_scores_that_are_recorded_are_not_sent_again(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", seeds=(0,))
    cell = cell_of(folder, vertical="feed", channel="ah")
    tracker_of(folder).finish(cell)
    tracker_of(folder).finish(cell)
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1


def test_a_cell_trained_anew_has_a_run_of_its_own_and_finds_the_earlier_one_again(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run", seeds=(0,))
    cell, other = (cell_of(folder, vertical="feed", channel=channel) for channel in ("ah", "none"))
    for one in (cell, other):
        tracker_of(folder).finish(one)
    first = json.loads((folder / RUNS).read_text())
    tracker_of(folder, settings="others").start(cell)
    second = json.loads((folder / RUNS).read_text())
    assert second[other.cell_id] == first[other.cell_id]
    assert second[cell.cell_id]["id"] != first[cell.cell_id]["id"] and second[cell.cell_id]["last_day"] == 0
    tracker_of(folder).start(cell)
    assert json.loads((folder / RUNS).read_text())[cell.cell_id] == first[cell.cell_id]


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The same folder, scored on the test days later: the same run gets days 12 to 14 alone."""
    folder = write_synthetic_run(tmp_path / "run", seeds=(0,))
    cell = cell_of(folder, vertical="feed", channel="ah")
    tracker_of(folder).finish(cell)
    first = set((folder / "wandb").glob("offline-run-*"))
    write_synthetic_run(folder, seeds=(0,), final=True)
    tracker_of(folder).finish(cell)
    (second,) = set((folder / "wandb").glob("offline-run-*")) - first
    records = inspect(second)
    # Not read off the folders' names: W&B numbers those that begin within one second.
    assert header(records)["run_id"] == json.loads((folder / RUNS).read_text())[cell.cell_id]["id"]
    assert header(records)["resume"] is True
    assert [point["day"] for point in history(records) if "day" in point] == [12, 13, 14]


@pytest.mark.parametrize("enabled,mode", [(True, "disabled"), (False, "offline")])
def test_nothing_is_recorded_when_switched_off(
    run: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert isinstance(tracker_of(run, enabled), NoTracker)


def test_unknown_mode_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match="WANDB_MODE: got 'ofline', allowed: offline, online, disabled"):
        tracker_of(run)


def test_online_without_a_key_is_refused_before_training(run: Path) -> None:
    module = "tests.experiments.offline_runs"
    code = f"import sys, pathlib, {module} as t; t.tracker_of(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "WANDB_MODE": "online", "HOME": str(run), "NETRC": str(run / "none")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert "UserError: WANDB_MODE: got online" in done.stderr, done.stderr


def test_terminal_stays_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_synthetic_run(tmp_path / "run", seeds=(0,))
    tracker_of(folder).finish(cell_of(folder, vertical="reels", channel="none"))
    assert capfd.readouterr() == ("", "")


def test_wandb_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, experiments.tracking; sys.exit('wandb' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
