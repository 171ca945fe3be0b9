"""An experiment opened for work: its settings, its data, its days, its folder, its cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distill.cells import ALL, Cell
from distill.config import ExperimentConfig, StudentConfig, TeacherConfig
from distill.dataset import DataSet
from distill.schedule import Schedule
from experiments.pipeline.build import architecture_options

NONE = "none"


@dataclass(frozen=True)
class Experiment:
    """What every step of the pipeline needs.

    Attributes:
        config: resolved settings.
        config_hash: sha256 of the resolved settings.
        base: folder of the experiment file; a user's own architectures are named relative to it.
        data: the prepared data set.
        schedule: its days.
    """

    config: ExperimentConfig
    config_hash: str
    base: Path
    data: DataSet
    schedule: Schedule

    @cached_property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def teacher_cell(self) -> Cell | None:
        """The teacher of every surface; its own predictions are those of lag 0."""
        if self.config.teacher is None:
            return None
        inputs = _inputs("teacher", self.config.teacher)
        name = self.config.teacher.name
        return Cell(
            self.config.name, name, "teacher", ALL, self.config.schedule.kind, inputs, "direct", 0, NONE
        )

    @property
    def student_cells(self) -> dict[Cell, StudentConfig]:
        """One cell per student, vertical and channel set."""
        schedule = self.config.schedule
        return {
            Cell(
                self.config.name,
                student.name,
                "student",
                vertical,
                schedule.kind,
                _inputs("student", student),
                "direct",
                schedule.lag,
                channel,
            ): student
            for student in self.config.students
            for vertical in student.verticals
            for channel in dict.fromkeys([NONE, *(student.channels or self.config.channels)])
        }

    def checkpoint_folder(self, cell: Cell, seed: int) -> Path:
        """Where the parameters and the report of one training lie."""
        return self.folder / "checkpoints" / cell.cell_id / str(seed)

    def snapshot(self, seed: int, day: int) -> Path:
        """The teacher's parameters as they were after training on `day`."""
        return self.folder / "teacher" / str(seed) / "snapshots" / f"day-{day:04d}.safetensors"

    def log_folder(self, seed: int) -> Path:
        """The teacher log of one seed at the schedule's lag."""
        schedule = self.config.schedule
        name = "frozen" if schedule.kind == "frozen" else f"lag-{schedule.lag}"
        return self.folder / "teacher_log" / str(seed) / name


def _inputs(role: str, model: TeacherConfig | StudentConfig) -> str:
    """`rich` when the model reads raw-id history of its own."""
    return "rich" if architecture_options(role, model).get("history_length") else "thin"
