"""Rows of other surfaces through the real command: what is read, what is predicted, and where there are none."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import experiments.catalog  # noqa: F401  fills the registries
from distill.cells import Cell, read_cells
from distill.load_config import load_config
from distill.progress import NoProgress
from experiments.__main__ import main
from experiments.pipeline.banks import Task
from experiments.pipeline.run import open_experiment
from experiments.pipeline.work import training_jobs
from tests.experiments.tiny_experiment import EXPERIMENT, raw_rows, write_days, write_experiment

ALL = {"ah": {"weight": 0.5, "other_surfaces": 1.0}}
OF_OTHERS = ("ah_surfaces", "single_surfaces", "labels_surfaces")
STUDENT = EXPERIMENT["students"][0] | {"verticals": ["reels"]}
CHANGES: dict[str, Any] = {
    "seeds": [0],
    "floor": False,
    "channels": {
        "ah": {"ah": {"weight": 0.5}},
        "ah_surfaces": ALL,
        "single_surfaces": {"single": {"weight": 0.5, "other_surfaces": 1.0}},
        "labels_surfaces": {"ah": ALL["ah"] | {"target": "labels"}},
        "nothing": {"ah": ALL["ah"] | {"weight": 0.0}},
    },
    "students": [STUDENT],
    "schedule": {"tune_days": [4, 5], "test_days": []},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("data") / "mine", days=5, rows=300)


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main(["run", str(write_experiment(folder / "a", data, folder / "cache", **CHANGES))]) == 0
    return folder / "a" / "out"


@pytest.fixture(scope="module")
def cells(out: Path) -> dict[str, Cell]:
    """Channel set to the student's cell."""
    return {cell.channel: cell for cell in read_cells(out / "cells.csv") if cell.role == "student"}


def predicted(out: Path, cell: Cell) -> dict[int, float]:
    """Example to its click logit."""
    table = pq.read_table(out / "predictions" / cell.cell_id / "0.parquet")
    return dict(zip(table["example_id"].to_pylist(), table["logit_click"].to_pylist(), strict=True))


def test_reads_the_others_on_days_that_the_teacher_knows(
    out: Path, data: Path, cells: dict[str, Cell]
) -> None:
    """Lag 1: the first snapshot, of day 1, logs day 3; day 4 is the last one trained on."""
    own = {day: int((raw_rows(data, day)["domain"] == "reels").sum()) for day in (1, 2, 3, 4)}
    seen = {1: own[1], 2: own[2], 3: 300, 4: 300}
    for name, read in {"ah": own, "nothing": own, **dict.fromkeys(OF_OTHERS, seen)}.items():
        path = out / "checkpoints" / cells[name].cell_id / "0" / "report.json"
        days = json.loads(path.read_text())["days"]
        assert [day["examples_seen"] for day in days] == [
            sum(read[earlier] for earlier in range(1, day + 1)) for day in (1, 2, 3, 4)
        ]


def test_predicts_its_own_rows_alone(out: Path, data: Path, cells: dict[str, Cell]) -> None:
    for name in ("ah", *OF_OTHERS):
        of_day = {row for row in predicted(out, cells[name]) if row // 100_000 == 5}
        rows = raw_rows(data, 5)
        assert of_day == set(rows["example_id"][rows["domain"] == "reels"].tolist())


def test_each_of_the_four_learns_something_else(out: Path, cells: dict[str, Cell]) -> None:
    logits = [predicted(out, cells[name]) for name in ("ah", *OF_OTHERS)]
    assert all(one != other for one, other in combinations(logits, 2))


def test_without_weight_it_is_the_student_alone(out: Path, cells: dict[str, Cell]) -> None:
    assert predicted(out, cells["nothing"]) == predicted(out, cells["none"])


def test_a_teacher_that_knows_no_other_surface_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    domain = {
        "name": "alone",
        "architecture": "deepfm",
        "verticals": ["reels"],
        "channel": "none",
        "options": {"dim": 4, "mlp": [8]},
        "optimizer": {"batch_size": 50},
    }
    below = STUDENT | {"route": "hierarchical", "channels": ["ah_surfaces"]}
    changes = CHANGES | {"channels": {"ah_surfaces": ALL}, "domain_teachers": [domain], "students": [below]}
    assert main(["run", str(write_experiment(tmp_path / "b", data, tmp_path / "cache", **changes))]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "other_surfaces: got 1 for student 'small' on reels, allowed: 0" in told


def test_jobs_are_as_long_as_what_they_read(data: Path, tmp_path: Path) -> None:
    """Days 1 to 4 are trained on; others' rows from day 3 on."""
    loaded = load_config(write_experiment(tmp_path / "c", data, tmp_path / "cache", **CHANGES))
    experiment = open_experiment(loaded, False, NoProgress())
    tasks = [Task(experiment, cell, 0) for cell in experiment.student_cells]
    found = {job.arguments[1].channel: job.examples for job in training_jobs(tasks, 1)}
    own = [int((raw_rows(data, day)["domain"] == "reels").sum()) for day in (1, 2, 3, 4)]
    with_others = own[0] + own[1] + 300 + 300
    assert found == dict.fromkeys(("none", "ah", "nothing"), sum(own)) | dict.fromkeys(OF_OTHERS, with_others)
