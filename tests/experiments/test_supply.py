"""What is opened for those that learn from a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.cells import Cell
from distill.config import ScheduleConfig
from distill.dataset import DataSet
from distill.log_files import LogManifest
from distill.schedule import Schedule
from distill.teacher_log import TeacherLog, write_day
from experiments.pipeline.supply import teacher_log
from tests.distill.prepared_data import write_small

TEACHER = Cell("e", "gem", "teacher", "all", "progressive", "thin", "direct", 0, "none")


@dataclass
class Opened:
    """What an experiment says of its logs."""

    data: DataSet
    schedule: Schedule
    folder: Path

    def log_folder(self, teacher: Cell, seed: int) -> Path:
        return self.folder


@pytest.fixture
def log(tmp_path: Path) -> TeacherLog:
    """Of lag 0 and days 1 to 4; students begin on day 3, so that days 3 and 4 are logged, with logits of 0.5."""
    data = write_small(tmp_path / "data", days=4)
    days = ScheduleConfig(tune_days=[4], test_days=[], lag=0, student_first_day=3)
    for day in (3, 4):
        ids = data.outcomes(day).example_id
        facts = LogManifest(
            "gem", "c" * 64, day - 1, day, 0, data.fingerprint, data.schema.name, ["click"], rows=0
        )
        write_day(tmp_path / "log", ids, np.full((len(ids), 1), 0.5, np.float32), facts)
    opened: Any = Opened(data, Schedule(days, n_days=4), tmp_path / "log")
    return teacher_log(opened, TEACHER, 0, ("click",))


@pytest.mark.parametrize(("day", "told"), [(1, False), (2, False), (3, True), (4, True)])
def test_a_domain_teacher_is_told_nothing_on_days_before_the_students_first(
    log: TeacherLog, day: int, told: bool
) -> None:
    """It trains from day 1 on and joins the log of every day."""
    signal = log.join(torch.tensor([day * 100_000, day * 100_000 + 7]), day)
    assert signal.mask.tolist() == [told, told]
    assert signal.logits[:, 0].tolist() == [0.5 * told] * 2
