"""A transfer study killed at any moment and started again ends with the same tables."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import main
from tests.experiments.processes import wait_for, wait_until_nobody_is_left
from tests.experiments.transfer_study import SMALL, SMALL_STUDY, THIN, write_base, write_study

SLOW = SMALL | {
    "students": [THIN | {"channels": ["ah"], "optimizer": {"batch_size": 4, "learning_rate": 0.01}}],
    "teacher__optimizer": {"batch_size": 8},
    "wandb": {"enabled": False},
    "workers": 2,
}
"""Small steps, so that a kill finds every model in the middle of its days."""

TABLES = ("transfer_tiny.csv", "transfer_ratio_tiny.csv", "transfer_bars_tiny.csv")


def start(study: Path) -> subprocess.Popen[str]:
    """`distill study transfer` in a session of its own."""
    command = [sys.executable, "-m", "experiments", "study", "transfer", str(study)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The tables but for processor times."""
    found = {}
    for name in TABLES:
        with (folder / name).open() as file:
            rows = list(csv.DictReader(file))
        found[name] = [{key: value for key, value in row.items() if key != "cpu_seconds"} for row in rows]
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of small steps; its file."""
    return write_base(tmp_path_factory.mktemp("base"), **SLOW)[1]


def test_a_killed_study_ends_with_the_same_tables(base: Path, tmp_path: Path) -> None:
    whole, killed = (write_study(tmp_path / name, base, **SMALL_STUDY) for name in ("whole", "killed"))
    assert main(["study", "transfer", str(whole)]) == 0
    runs = tmp_path / "killed" / "runs"
    moments = {
        "a snapshot of the teacher": lambda: (
            runs / "core/teacher/0/snapshots/day-0002.safetensors"
        ).exists(),
        "the third model": lambda: len(trained(runs)) >= 3,
        "the scores": lambda: json.loads((runs / "status.json").read_text())["step"] == "score",
    }
    kept: dict[Path, int] = {}
    for what, happened in moments.items():
        process = start(killed)
        wait_for(happened, process, what)
        os.kill(process.pid, signal.SIGKILL)  # nothing can be said or tidied up by it
        process.communicate()
        wait_until_nobody_is_left(process.pid)
        assert process.returncode == -signal.SIGKILL
        assert kept.items() <= trained(runs).items(), "what was done has been done again"
        kept = trained(runs)
    assert len(kept) == 7 and not (tmp_path / "killed" / TABLES[0]).exists()
    assert main(["study", "transfer", str(killed)]) == 0
    assert trained(runs) == kept and tables(tmp_path / "killed") == tables(tmp_path / "whole")


def trained(runs: Path) -> dict[Path, int]:
    """Reports of the trainings that have ended, and when; those that a slice only links to are another's."""
    found = [path for path in runs.glob("*/checkpoints/*/*/report.json") if not path.parents[1].is_symlink()]
    return {path: path.stat().st_mtime_ns for path in found}
