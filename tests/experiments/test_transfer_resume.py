"""A transfer study killed at any moment and started again ends with the same tables."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from experiments.__main__ import main
from tests.experiments.processes import SECONDS, Forked, wait_for, wait_until_nobody_is_left
from tests.experiments.transfer_study import (
    SMALL,
    SMALL_STUDY,
    TABLES,
    THIN,
    reports,
    tables_of,
    write_base,
    write_study,
)

SLOW = SMALL | {
    "students": [THIN | {"channels": ["ah"], "optimizer": {"batch_size": 4, "learning_rate": 0.01}}],
    "teacher__optimizer": {"batch_size": 8},
    "wandb": {"enabled": False},
    "workers": 1,
}
"""Small steps, so that a kill finds every model in the middle of its days; what becomes of several workers is for
`test_pool`."""


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
        "the third model": lambda: len(reports(tmp_path / "killed")) >= 3,
        "the scores": lambda: json.loads((runs / "status.json").read_text())["step"] == "score",
    }
    kept: dict[Path, int] = {}
    for what, happened in moments.items():
        process = Forked(["study", "transfer", str(killed)], tmp_path / what)
        wait_for(happened, process, what)
        os.kill(process.pid, signal.SIGKILL)  # nothing can be said or tidied up by it
        process.communicate(timeout=SECONDS)
        wait_until_nobody_is_left(process.pid)
        assert process.poll() == -signal.SIGKILL
        assert kept.items() <= reports(tmp_path / "killed").items(), "what was done has been done again"
        kept = reports(tmp_path / "killed")
    assert len(kept) == 7 and not (tmp_path / "killed" / TABLES[0]).exists()
    assert main(["study", "transfer", str(killed)]) == 0
    assert reports(tmp_path / "killed") == kept and tables_of(tmp_path / "killed") == tables_of(
        tmp_path / "whole"
    )
