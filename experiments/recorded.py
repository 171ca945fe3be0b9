"""A run folder as tracker, report and comparison read it; a partial one is read as far as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from distill.cells import Cell, read_cells
from distill.errors import UserError
from distill.findings import show
from distill.predictions import CellPredictions
from distill.results import Row, read_results
from distill.strict_json import read_mapping
from distill.strict_yaml import read

TEACHER = "teacher"
STUDENT = "student"
FLOOR = "floor"

_TIMED = ("seconds", "cpu_seconds", "dense_parameters", "table_parameters", "flops_per_example")
NONE = "none"


@dataclass(frozen=True)
class RecordedRun:
    """What a run has written so far.

    Attributes:
        folder: the run folder.
        config: resolved settings; empty when the run has not written them.
        status: status.json; empty when there is none.
        cells: rows of cells.csv.
        rows, transfer: of results.json; empty until the run is scored.
        versions: package to version.
        git_commit: commit of the code, empty outside a repository.
        timing: of results.json: cell_id to seed (as text) to seconds, examples and parameters.
        trainings: (cell_id, seed) to the report of that finished training.
    """

    folder: Path
    config: dict[str, Any]
    status: dict[str, Any]
    cells: list[Cell]
    rows: list[Row]
    transfer: list[Row]
    timing: dict[str, dict[str, dict[str, float]]]
    versions: dict[str, str]
    git_commit: str
    trainings: dict[tuple[str, int], dict[str, Any]]

    @property
    def name(self) -> str:
        return str(self.config.get("name") or (self.cells[0].experiment if self.cells else self.folder.name))

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the run has scored; the days of others are not to be read."""
        return tuple(split for split in ("tune", "test") if any(row["split"] == split for row in self.rows))

    @property
    def split(self) -> str:
        """The split to judge by: the test days of a final run, else the tune days."""
        return "test" if "test" in self.splits else "tune"

    @property
    def schedule(self) -> str:
        """Kind of the schedule, and the lag where it has one; empty when the settings are missing."""
        schedule = self.config.get("schedule") or {}
        lag = f", lag {schedule['lag']}" if schedule.get("kind") == "progressive" else ""
        return f"{schedule.get('kind', '')}{lag}"

    @property
    def judged_days(self) -> list[int]:
        """Days of that split; empty when the settings are missing."""
        return list((self.config.get("schedule") or {}).get(f"{self.split}_days") or [])

    @property
    def seeds(self) -> list[int]:
        """Seeds asked for, or those found when the settings are missing."""
        return list(self.config.get("seeds") or sorted({seed for _, seed in self.trainings}))

    @property
    def planned(self) -> int:
        """Trainings that the settings ask for; 0 when the settings are missing."""
        students = self.config.get("students") or []
        sets = self.config.get("channels") or {}
        cells = sum(len(s["verticals"]) * len({NONE, *(s["channels"] or sets)}) for s in students)
        return (cells + bool(self.config.get("teacher"))) * len(self.seeds)

    @property
    def complete(self) -> bool:
        """True when everything asked for has been trained and scored."""
        return bool(self.rows) and len(self.trainings) >= self.planned

    def cost(self, cell_id: str) -> dict[str, float] | None:
        """Means over seeds of what a training took; None for what was not timed.

        Returns:
            seconds, cpu_seconds, examples_per_second (of training alone), dense_parameters, table_parameters,
            parameters (both), flops_per_example (of training).
        """
        of_seed = list(self.timing.get(cell_id, {}).values())
        if not of_seed:
            return None
        cost = {name: fmean(seed[name] for seed in of_seed) for name in _TIMED}
        cost["examples_per_second"] = fmean(seed["examples"] / seed["train_seconds"] for seed in of_seed)
        cost["parameters"] = cost["dense_parameters"] + cost["table_parameters"]
        return cost

    def predictions(self) -> Iterator[CellPredictions]:
        """Cells that have predictions and have been scored."""
        scored = {row["cell_id"] for row in self.rows}
        for cell in self.cells:
            if cell.cell_id in scored:
                yield CellPredictions(cell, self.folder)


def read_run(folder: str | Path) -> RecordedRun:
    """Read a run folder.

    Args:
        folder: `<output>` of an experiment; the run may have been interrupted at any point.

    Raises:
        UserError: no such folder, nothing of a run in it, or a file that breaks its form.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("config.yaml", "cells.csv", "results.json")):
        raise UserError(
            f"run folder: got {folder}, allowed: the `output` of an experiment, with config.yaml, cells.csv "
            "or results.json in it. Run the experiment first (`distill run FILE.yaml`)."
        )
    scored = (folder / "results.json").is_file()
    results = read_results(folder / "results.json") if scored else {}
    cells = read_cells(folder / "cells.csv") if (folder / "cells.csv").is_file() else []
    return RecordedRun(
        folder=folder,
        config=_yaml(folder / "config.yaml"),
        status=_json(folder / "status.json"),
        cells=cells,
        rows=results.get("rows", []),
        transfer=results.get("transfer", []),
        timing=results.get("timing", {}),
        versions=results.get("versions") or _json(folder / "versions.json"),
        git_commit=results.get("git_commit", ""),
        trainings=_trainings(folder),
    )


def _trainings(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    paths = sorted((folder / "checkpoints").glob("*/*/report.json"))
    return {
        (path.parent.parent.name, int(path.parent.name)): _json(path)
        for path in paths
        if path.parent.name.isdecimal()
    }


def _json(path: Path) -> dict[str, Any]:
    return read_mapping(path, UserError, _ADVICE) if path.is_file() else {}


def _yaml(path: Path) -> dict[str, Any]:
    content = read(path).content if path.is_file() else {}
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: got {show(content)}, allowed: the settings of a run. {_ADVICE}")
    return content or {}


_ADVICE = "Remove the file, and repeat the run (`distill run`)."
