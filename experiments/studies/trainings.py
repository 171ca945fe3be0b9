"""Trainings of a study: one model per run folder, in the teacher's role or surface by surface, all seeds side by side.

A study keeps neither snapshots nor logs, since nothing is distilled from its models. What a folder holds already, made
with the same settings and data, is not trained again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from distill.cells import ALL, Cell, write_cells
from distill.config import ExperimentConfig, StudentConfig
from distill.dataset import DataSet
from distill.errors import UserError
from distill.files import atomic_path
from distill.load_config import LoadedConfig, content_hash
from distill.predictions import CellPredictions, Predictions, prediction_path
from distill.progress import Progress
from distill.schedule import Schedule
from distill.structured import to_plain
from experiments.pipeline.environment import versions
from experiments.pipeline.experiment import NONE, Experiment
from experiments.pipeline.pool import default_workers, run_jobs
from experiments.pipeline.rehearsal import rehearse_all
from experiments.pipeline.settings import anywhere
from experiments.pipeline.streams import rows_of
from experiments.pipeline.training import REPORT, describes, read_report
from experiments.pipeline.work import job_of, train_student_job, train_teacher_job


@dataclass(frozen=True)
class SeedPredictions(CellPredictions):
    """Predictions of exactly these seeds, whatever else the folder holds.

    Attributes:
        chosen: the seeds.
    """

    chosen: tuple[int, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.chosen


@dataclass(frozen=True)
class JoinedPredictions(SeedPredictions):
    """Several models of one surface each, read as one model of all surfaces.

    Attributes:
        parts: one per surface.
    """

    parts: tuple[CellPredictions, ...]

    def read(self, seed: int, splits: Any) -> Predictions:
        return Predictions.concatenate([part.read(seed, splits) for part in self.parts])


@dataclass(frozen=True)
class Model:
    """One model of a study, all seeds.

    Attributes:
        name: in tables.
        experiment: holds this model alone.
        seeds: one training each.
    """

    name: str
    experiment: Experiment
    seeds: tuple[int, ...]

    @cached_property
    def cells(self) -> list[Cell]:
        """The teacher's cell, or one cell per surface."""
        teacher = self.experiment.teacher_cell
        return list(self.experiment.student_cells) if teacher is None else [teacher]

    @property
    def trainings(self) -> list[Training]:
        return [Training(self.experiment, cell, seed) for seed in self.seeds for cell in self.cells]

    @property
    def source(self) -> CellPredictions:
        """Its predictions, as those of one model of all surfaces."""
        parts = tuple(SeedPredictions(cell, self.experiment.folder, self.seeds) for cell in self.cells)
        if parts[0].cell.vertical == ALL:
            return parts[0]
        joined = replace(parts[0].cell, vertical=ALL)
        return JoinedPredictions(joined, self.experiment.folder, self.seeds, parts)

    def describe(self) -> None:
        """Write what the run folder is about: config.yaml, versions.json, cells.csv."""
        folder = self.experiment.folder
        with atomic_path(folder / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(to_plain(self.experiment.config), sort_keys=False, width=110))
        with atomic_path(folder / "versions.json") as temporary:
            temporary.write_text(json.dumps(versions(), indent=1) + "\n")
        write_cells(folder / "cells.csv", self.cells)

    def cost(self, vertical: str, seed: int) -> Cost:
        """What the model of a surface took; of all surfaces together for a name that is none of theirs."""
        cells = [cell for cell in self.cells if cell.vertical == vertical] or self.cells
        return Cost.of([read_report(self.experiment, cell, seed) for cell in cells])


@dataclass(frozen=True)
class Cost:
    """What one training took.

    Attributes:
        params: numbers in dense parameters and tables.
        flops_per_example: of training on one example: forward and backward.
        train_flops: of the whole training.
        cpu_seconds: processor time, s.
    """

    params: int
    flops_per_example: float
    train_flops: float
    cpu_seconds: float

    @staticmethod
    def of(reports: Sequence[Mapping[str, Any]]) -> Cost:
        """Several models that share the examples count together: their FLOPs are the mean over examples."""
        examples = [report["days"][-1]["examples_seen"] for report in reports]
        flops = sum(report["flops_per_example"] * n for report, n in zip(reports, examples, strict=True))
        return Cost(
            sum(report["dense_parameters"] + report["table_parameters"] for report in reports),
            flops / sum(examples),
            sum(report["train_flops"] for report in reports),
            sum(report["cpu_seconds"] for report in reports),
        )


@dataclass(frozen=True)
class Training:
    """One model, one seed.

    Attributes:
        experiment: holds the model.
        cell: the model.
        seed: of the training.
    """

    experiment: Experiment
    cell: Cell
    seed: int

    @property
    def is_done(self) -> bool:
        """True when it ended with these settings and data, through the days needed now."""
        path = self.experiment.checkpoint_folder(self.cell, self.seed) / REPORT
        if not path.is_file() or not prediction_path(self.experiment.folder, self.cell, self.seed).is_file():
            return False
        report = json.loads(path.read_text())
        ended = report["last_day"] >= self.experiment.schedule.last_day
        return ended and describes(report, self.experiment, self.cell, self.seed)


def open_model(
    loaded: LoadedConfig,
    name: str,
    folder: Path,
    seeds: Sequence[int],
    data: DataSet,
    *,
    final: bool = False,
    per_surface: bool = False,
) -> Model:
    """A model of a study in a run folder of its own.

    Args:
        loaded: an experiment whose teacher is the model.
        name: of the model in tables.
        folder: gets its trainings.
        seeds: one training each.
        data: the experiment's prepared data set.
        final: read the test days too.
        per_surface: one model for each vertical, trained on its rows alone, instead of one for all surfaces.

    Raises:
        UserError: an experiment without a teacher, or days outside the data set.
    """
    if loaded.config.teacher is None:
        raise UserError(f"{loaded.path}: teacher: got null, allowed in a study: a teacher, the model studied")
    config = _alone(loaded.config, name, folder, seeds)
    if per_surface:
        config = _surface_by_surface(config, data.schema.verticals)
    schedule = Schedule(config.schedule, data.schema.n_days, final)
    digest = settings_hash(replace(loaded, config=config))
    return Model(name, Experiment(config, digest, loaded.base, data, schedule), tuple(seeds))


def rehearse(models: Mapping[str, Model]) -> None:
    """Build what is still to be trained, before the first training.

    Args:
        models: by their place in the study's file.

    Raises:
        ConfigErrors: what the models refuse, all of it.
    """
    rehearse_all(
        {
            place: [
                (training.experiment, training.cell) for training in model.trainings if not training.is_done
            ]
            for place, model in models.items()
        }
    )


def train(models: Sequence[Model], title: str, progress: Progress) -> None:
    """Train what is missing, as many at once as there are workers (`workers` of the first model's experiment).

    Args:
        models: those that take longest first, so that no process is left alone with one at the end.
        title: the bar's name.
        progress: shown to the user.
    """
    for model in models:
        model.describe()
    missing = [t for model in models for t in model.trainings if not t.is_done]
    if missing:
        rows = {t.cell: _rows(t) for t in {t.cell: t for t in missing}.values()}
        workers = missing[0].experiment.config.workers or default_workers()
        work = [job_of([t.experiment], _train, (t,), rows[t.cell]) for t in missing]
        run_jobs(work, title, workers, progress)


def _train(training: Training, progress: Progress) -> None:
    import experiments.catalog  # noqa: F401  fills the registries of a fresh process

    experiment, cell, seed = training.experiment, training.cell, training.seed
    if cell != experiment.teacher_cell:
        train_student_job(experiment, cell, seed, progress)
        return
    train_teacher_job(experiment, cell, seed, progress)
    shutil.rmtree(experiment.snapshot(cell, seed, 1).parent)


def _rows(training: Training) -> int:
    """Examples that it reads."""
    plan = training.experiment.schedule.teacher_plan()
    return sum(rows_of(training.experiment.data, plan.train, training.cell.domains).values())


def _alone(config: ExperimentConfig, name: str, folder: Path, seeds: Sequence[int]) -> ExperimentConfig:
    """The teacher without whatever else the experiment holds, so that a change there trains nothing again."""
    assert config.teacher is not None
    return replace(
        config,
        output=str(folder),
        seeds=list(seeds),
        teacher=replace(config.teacher, name=name, representation=None),
        students=[],
        channels={NONE: {}},
        floor=False,
        wandb=replace(config.wandb, enabled=False),
    )


def _surface_by_surface(config: ExperimentConfig, verticals: Sequence[str]) -> ExperimentConfig:
    """The teacher as a student of every vertical, on the teacher's days."""
    teacher = config.teacher
    assert teacher is not None
    both = {f.name for f in fields(teacher)} & {f.name for f in fields(StudentConfig)}
    shared = {name: getattr(teacher, name) for name in both}
    student = StudentConfig(**shared, verticals=list(verticals), channels=[NONE])
    days = replace(config.schedule, student_first_day=1, student_last_day=config.schedule.teacher_days)
    return replace(config, teacher=None, students=[student], schedule=days)


def settings_hash(loaded: LoadedConfig) -> str:
    """Hash of what decides about a training: neither its seed nor where things lie."""
    return content_hash(anywhere(loaded.config), loaded.config.seeds)
