"""Builds every model that learns from a teacher before the teacher is trained.

Only a built model can say that it has no such tap, reads no such table or takes no such option, and the teacher may
train for days before the first student is built.
"""

from __future__ import annotations

from collections.abc import Iterator

from distill.cells import Cell
from distill.config import DomainTeacherConfig, StudentConfig
from distill.errors import ConfigErrors, Problem, UserError
from experiments.pipeline.build import build_autoencoder, build_student
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.jobs import is_done


def rehearse(experiment: Experiment) -> None:
    """Build, with its channels, and throw away each student and domain teacher that is still to be trained.

    Raises:
        ConfigErrors: what the models refuse, all of it.
    """
    problems = []
    for cell, model in _each_once(experiment):
        try:
            _build(experiment, cell, model)
        except UserError as error:
            place = f"{cell.role.replace('_', ' ')} '{cell.model}'"
            problems.append(Problem(place, f"channels.{cell.channel}", "", "", str(error)))
    if problems:
        raise ConfigErrors(problems)


def _each_once(experiment: Experiment) -> Iterator[tuple[Cell, StudentConfig | DomainTeacherConfig]]:
    """Models and channel sets that are to be trained, on their first surface only: on another they are built alike."""
    seen = set()
    for cell, model in (experiment.domain_cells | experiment.student_cells).items():
        key = (cell.role, cell.model, cell.channel)
        if key not in seen and not all(is_done(experiment, cell, seed) for seed in experiment.config.seeds):
            seen.add(key)
            yield cell, model


def _build(experiment: Experiment, cell: Cell, model: StudentConfig | DomainTeacherConfig) -> None:
    seed, schema = experiment.config.seeds[0], experiment.data.schema
    channels = experiment.channels_of(cell)
    built, _ = build_student(model, channels, model.optimizer, schema, seed, experiment.base)
    if isinstance(model, DomainTeacherConfig):
        build_autoencoder(model.representation, built, seed)
