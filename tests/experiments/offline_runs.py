"""Records offline W&B runs, and reads them back with W&B's own reader."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.cells import Cell, read_cells
from distill.config import ExperimentConfig, WandbConfig
from experiments.tracking import RUNS, Tracker, open_tracker

Records = list[dict[str, Any]]


def inspect(run_folder: Path) -> Records:
    """Records of one offline run: by `wandb leet inspect --json`, without the second that its Python part imports."""
    from wandb.util import get_core_path

    (file,) = run_folder.glob("run-*.wandb")
    options = ["--no-observability", "--json", "--run-file", str(file)]
    command = [get_core_path(), "leet", "inspect", *options, str(run_folder.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(records: Records) -> list[dict[str, Any]]:
    """What was logged, a dictionary per point."""
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def summary(records: Records) -> dict[str, Any]:
    """The summary as it was at the end."""
    found: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            found |= record["summary"].get("update", {})
    return found


def header(records: Records) -> dict[str, Any]:
    """What the run says of itself."""
    return next(record["run"] for record in records if record["type"] == "run")


def artifacts(records: Records) -> list[dict[str, Any]]:
    """Artifacts that the run used or logged."""
    return [record["artifact"] for record in records if record["type"] == "artifact"]


@dataclass
class FakeExperiment:
    """What the tracker asks of an experiment."""

    folder: Path
    config: ExperimentConfig
    settings: str = "c0ffee"

    def settings_hash(self, cell: Cell) -> str:
        return self.settings


def tracker_of(folder: Path, enabled: bool = True, settings: str = "c0ffee") -> Tracker:
    config = ExperimentConfig(name="synthetic", wandb=WandbConfig(enabled=enabled, project="test"))
    return open_tracker(FakeExperiment(folder, config, settings), (folder / "config.yaml").read_text())


def cell_of(folder: Path, **fields: str) -> Cell:
    return next(
        c for c in read_cells(folder / "cells.csv") if all(getattr(c, n) == v for n, v in fields.items())
    )


def records_of(folder: Path, cell: Cell) -> Records:
    run_id = json.loads((folder / RUNS).read_text())[cell.cell_id]["id"]
    (found,) = (folder / "wandb").glob(f"offline-run-*-{run_id}")
    return inspect(found)
