"""An experiment opened for work: its settings, its data, its days, its folder, its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.by_content import starts_by_seed
from distill.cells import ALL, DOMAIN_TEACHER, JOIN, NONE, Cell
from distill.channel_sets import channel_set
from distill.config import DomainTeacherConfig, ExperimentConfig, StudentConfig, TeacherConfig
from distill.dataset import DataSet
from distill.schedule import Schedule
from experiments.pipeline.build import architecture_options
from experiments.pipeline.settings import reaching, settings_hash, with_starts

LOCKS = ".locks"
"""Folder in a run folder: who works on what (`distill.alone`)."""

DIRECT, HIERARCHICAL = "direct", "hierarchical"


@dataclass(frozen=True)
class Planned:
    """An experiment as its settings have it: its cells, who learns from whom, what decides about each, its folders.

    Attributes:
        config: resolved settings.
        hashes: cell to the hash of what decides about it in every seed. Taken when the experiment is opened: a user's
            own architecture may be edited while it is trained.
    """

    config: ExperimentConfig
    hashes: Mapping[Cell, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        hashes = {cell: settings_hash(self.config, cell, model) for cell, model in self.cells.items()}
        object.__setattr__(self, "hashes", hashes)

    def settings_hash(self, cell: Cell, seed: int | None = None) -> str:
        """sha256 (hex) of what decides about a cell (`experiments.pipeline.settings`), asked for again the same.

        Args:
            cell: the model's, or the floor's.
            seed: of the training; None for those of all seeds together.
        """
        in_every_seed = self.hashes.get(cell) or settings_hash(self.config, cell, None)
        if not starts_by_seed(self.config):
            return in_every_seed
        if (cell, seed) not in self._of_seeds:
            starts = starts_by_seed(reaching(self.config, cell, self.cells.get(cell)))
            seeds = self.config.seeds if seed is None else [seed]
            self._of_seeds[cell, seed] = with_starts(in_every_seed, starts, seeds)
        return self._of_seeds[cell, seed]

    @cached_property
    def _of_seeds(self) -> dict[tuple[Cell, int | None], str]:
        """What `settings_hash` has said: a file may be trained anew while the model that starts from it is trained."""
        return {}

    @cached_property
    def folder(self) -> Path:
        return Path(self.config.output)

    @cached_property
    def teacher_cell(self) -> Cell | None:
        """The teacher of every surface; its own predictions are those of lag 0."""
        teacher = self.config.teacher
        return None if teacher is None else self._cell("teacher", teacher, ALL, DIRECT, NONE, lag=0)

    @cached_property
    def domain_cells(self) -> dict[Cell, DomainTeacherConfig]:
        """One cell per domain teacher; like the teacher's, its own predictions are those of lag 0."""
        return {
            self._cell(DOMAIN_TEACHER, model, JOIN.join(model.verticals), DIRECT, model.channel, lag=0): model
            for model in self.config.domain_teachers
        }

    @cached_property
    def student_cells(self) -> dict[Cell, StudentConfig]:
        """One cell per student, vertical and channel set."""
        lag = self.config.schedule.lag
        return {
            self._cell("student", student, vertical, student.route, channel, lag): student
            for student in self.config.students
            for vertical in student.verticals
            for channel in dict.fromkeys([NONE, *(student.channels or self.config.channels)])
        }

    @property
    def logged_cells(self) -> dict[Cell, TeacherConfig]:
        """The models that others learn from: the teacher, then the domain teachers."""
        teacher = self.config.teacher
        first = {} if teacher is None or self.teacher_cell is None else {self.teacher_cell: teacher}
        return first | self.domain_cells

    @property
    def cells(self) -> dict[Cell, TeacherConfig | StudentConfig]:
        """Everything that is trained."""
        return {**self.logged_cells, **self.student_cells}

    def channels_of(self, cell: Cell) -> Mapping[str, dict[str, Any]]:
        """What a student or domain teacher learns by: channel to its settings; nothing for the teacher."""
        model = self.student_cells.get(cell) or self.domain_cells.get(cell)
        return {} if model is None else channel_set(self.config, model, cell.channel)

    def teacher_of(self, cell: Cell) -> Cell:
        """Whom a student or a domain teacher learns from."""
        if cell.route == HIERARCHICAL:
            (found,) = [domain for domain in self.domain_cells if cell.vertical in (domain.domains or ())]
            return found
        assert self.teacher_cell is not None, f"{cell} has no teacher"
        return self.teacher_cell

    def other_teachers_of(self, cell: Cell) -> list[Cell]:
        """Who else knows all of a student's rows."""
        own = set(cell.domains or ())
        knowing = [other for other in self.logged_cells if other.domains is None or own <= set(other.domains)]
        return [other for other in knowing if other not in (cell, self.teacher_of(cell))]

    def checkpoint_folder(self, cell: Cell, seed: int) -> Path:
        """Where the parameters and the report of one training lie."""
        return self.folder / "checkpoints" / cell.cell_id / str(seed)

    def lock(self, cell: Cell, seed: int) -> Path:
        """What the process has that trains a model or writes its log (`distill.alone`)."""
        return self.folder / LOCKS / f"{cell.cell_id}-{seed}"

    def snapshot(self, teacher: Cell, seed: int, day: int) -> Path:
        """The parameters of a teacher or domain teacher as they were after training on `day`."""
        return self._of_teacher(teacher) / "teacher" / str(seed) / "snapshots" / f"day-{day:04d}.safetensors"

    def log_folder(self, teacher: Cell, seed: int) -> Path:
        """The log of a teacher or domain teacher of one seed at the schedule's lag."""
        schedule = self.config.schedule
        name = "frozen" if schedule.kind == "frozen" else f"lag-{schedule.lag}"
        return self._of_teacher(teacher) / "teacher_log" / str(seed) / name

    def _of_teacher(self, teacher: Cell) -> Path:
        if teacher.role == DOMAIN_TEACHER:
            return self.folder / "domain_teachers" / teacher.model
        return self.folder

    def _cell(
        self,
        role: str,
        model: TeacherConfig | StudentConfig,
        vertical: str,
        route: str,
        channel: str,
        lag: int,
    ) -> Cell:
        kind, inputs = self.config.schedule.kind, _inputs(role, model)
        return Cell(self.config.name, model.name, role, vertical, kind, inputs, route, lag, channel)


@dataclass(frozen=True)
class Experiment(Planned):
    """What every step of the pipeline needs.

    Attributes:
        config: resolved settings.
        config_hash: sha256 of the resolved settings.
        base: folder of the experiment file; a user's own architectures are named relative to it.
        data: the prepared data set.
        schedule: its days.
    """

    config_hash: str
    base: Path
    data: DataSet
    schedule: Schedule


def _inputs(role: str, model: TeacherConfig | StudentConfig) -> str:
    """`rich` when the model reads raw-id history of its own."""
    return "rich" if architecture_options(role, model).get("history_length") else "thin"
