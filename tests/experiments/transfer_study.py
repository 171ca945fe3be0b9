"""A tiny transfer study: two students on two surfaces, four slices; channel sets carry the protocol's names.

Whatever the sets are called, they are made of channels that cost nothing: what is tested is the study.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distill.cells import Cell
from experiments.__main__ import main
from tests.experiments import recompute
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

SEEDS = (0, 1)
VERTICALS = ("feed", "reels")
THIN: dict[str, Any] = EXPERIMENT["students"][0] | {"name": "thin"}
RICH: dict[str, Any] = THIN | {
    "name": "rich",
    "options": {"dim": 4, "mlp": [8], "history_length": 4},
    "channels": ["ah", "all"],
    "channel_optimizers": {"ah": {"batch_size": 25, "learning_rate": 0.01}},
}
SETS: dict[str, Any] = {
    "single": {"single": {}},
    "ah": {"ah": {"weight": 0.5}},
    "ah_adapter": {"ah": {"weight": 1.0}},
    "all": {"ah": {"weight": 2.0}},
}
DOMAIN: dict[str, Any] = {
    "name": "apps",
    "architecture": "deepfm",
    "verticals": ["feed", "reels"],
    "channel": "ah",
    "options": {"dim": 4, "mlp": [8]},
    "optimizer": {"batch_size": 50, "learning_rate": 0.01},
}
EXPERIMENT_CHANGES: dict[str, Any] = {
    "channels": SETS,
    "students": [THIN, RICH],
    "domain_teachers": [DOMAIN],
}
STUDY: dict[str, Any] = {
    "data": "tiny",
    "seeds": list(SEEDS),
    "small": ["reels"],
    "slices": {
        "fresh": {"channels": ["ah", "ah_adapter"], "set": {"schedule.lag": 0}},
        "below": {"channels": ["all"], "route": "hierarchical"},
        "frozen": {
            "channels": ["ah"],
            "set": {"schedule.kind": "frozen", "schedule.teacher_days": 2, "schedule.student_last_day": 5},
        },
    },
}


def write_study(folder: Path, base: Path, **changes: Any) -> Path:
    """`folder`/study.yaml, whose trainings go to `folder`/runs; `a__b` replaces b below a.

    Args:
        folder: to be made.
        base: its experiment file.
        changes: values replaced in STUDY.
    """
    content = json.loads(json.dumps(STUDY))
    content |= {"experiment": str(base), "output": str(folder / "runs")}
    content["table"] = str(folder / "transfer_tiny.csv")
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "study.yaml"


def write_base(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Data and the experiment of a study.

    Args:
        folder: gets `data`, `cache` and `base`.
        changes: of the experiment, on top of EXPERIMENT_CHANGES.

    Returns:
        Folder of the data; the experiment file.
    """
    data = write_days(folder / "data", rows=240)
    return data, write_experiment(folder / "base", data, folder / "cache", **(EXPERIMENT_CHANGES | changes))


SMALL: dict[str, Any] = {
    "channels": {"ah": {"ah": {}}, "all": {"ah": {"weight": 2.0}}},
    "students": [THIN | {"channels": ["ah"]}],
    "domain_teachers": [],
    "wandb": {"enabled": True, "project": "test"},
}
"""Experiment of a study that is over in no time: one student, `ah` alone."""

SMALL_STUDY: dict[str, Any] = {
    "seeds": [0],
    "small": [],
    "slices": {"fresh": {"channels": ["ah"], "set": {"schedule.lag": 0}}},
}

CORE = {"thin": ("none", "single", "ah", "ah_adapter", "all"), "rich": ("none", "ah", "all")}
SLICES: dict[str, dict[str, tuple[str, ...]]] = {
    "core": CORE,
    "fresh": {"thin": ("none", "ah", "ah_adapter"), "rich": ("none", "ah")},
    "below": {"thin": ("none", "all"), "rich": ("none", "all")},
    "frozen": {"thin": ("none", "ah"), "rich": ("none", "ah")},
}
"""Slice to student to channel sets; what `write_study` asks for."""

CONDITIONS = {
    "core": ("progressive", "direct", 1),
    "fresh": ("progressive", "direct", 0),
    "below": ("progressive", "hierarchical", 1),
    "frozen": ("frozen", "direct", 1),
}


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Attributes:
        folder: holds study.yaml, tables and runs.
        data: folder of the data as it was written.
        printed: what the command wrote to standard output.
    """

    folder: Path
    data: Path
    printed: str

    def table(self, what: str = "") -> list[dict[str, str]]:
        name = f"transfer_{what}_tiny.csv" if what else "transfer_tiny.csv"
        with (self.folder / name).open() as file:
            return list(csv.DictReader(file))

    def slice(self, name: str) -> Path:
        return self.folder / "runs" / name

    def cell(self, slice_name: str, model: str, vertical: str, channel: str = "none") -> Cell:
        inputs = "thin" if model == "thin" else "rich"
        schedule, route, lag = CONDITIONS[slice_name]
        return Cell("tiny", model, "student", vertical, schedule, inputs, route, lag, channel)

    def teacher(self, schedule: str = "progressive") -> Cell:
        return Cell("tiny", "gem", "teacher", "all", schedule, "rich", "direct", 0, "none")

    def predictions(self, slice_name: str, cell: Cell, seed: int) -> Path:
        return self.slice(slice_name) / "predictions" / cell.cell_id / f"{seed}.parquet"

    def report(self, slice_name: str, cell: Cell, seed: int) -> dict[str, Any]:
        path = self.slice(slice_name) / "checkpoints" / cell.cell_id / str(seed) / "report.json"
        return json.loads(path.read_text())

    @cached_property
    def rows(self) -> dict[tuple[str, ...], dict[str, str]]:
        """(cell_id, vertical, task, seed) to the row of the tune days."""
        keys = ("cell_id", "vertical", "task", "seed")
        return {tuple(row[key] for key in keys): row for row in self.table() if row["split"] == "tune"}

    def losses(self, slice_name: str, cells: Sequence[Cell], vertical: str, task: str) -> dict[str, float]:
        """L by scikit-learn, mean over seeds."""
        p = recompute.base_rate(self.data, range(1, 6), vertical, task)
        paths = [[self.predictions(slice_name, cell, seed) for cell in cells] for seed in SEEDS]
        found = [recompute.losses(recompute.read(of, "tune", vertical), task, p) for of in paths]
        return {kind: float(np.mean([of[kind] for of in found])) for kind in found[0]}


def run(study: Path, *arguments: str) -> str:
    """The command; what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["study", "transfer", str(study), *arguments]) == 0
    return printed.getvalue()


def owned(folder: Path) -> set[str]:
    """Ids of the cells whose trainings lie in a slice's folder itself."""
    return {path.name for path in (folder / "checkpoints").iterdir() if not path.is_symlink()}


TABLES = ("transfer_tiny.csv", "transfer_ratio_tiny.csv", "transfer_bars_tiny.csv")


def stamps(folder: Path, *suffixes: str) -> dict[Path, int]:
    found = (path for path in folder.rglob("*") if path.suffix in suffixes)
    return {path: path.stat().st_mtime_ns for path in found}


def reports(folder: Path) -> dict[Path, int]:
    """Reports of trainings and when they were written; what is linked is not counted again."""
    found = folder.glob("runs/*/checkpoints/*/*/report.json")
    return {path: path.stat().st_mtime_ns for path in found if not path.parents[1].is_symlink()}


def tables_of(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The tables but for times."""
    found = {}
    for name in TABLES:
        with (folder / name).open() as file:
            rows = list(csv.DictReader(file))
        found[name] = [{key: value for key, value in row.items() if key != "cpu_seconds"} for row in rows]
    return found
