"""Builds every model that is to be trained before the first one is.

Only a built model can say that it has no such tap, reads no such table or takes no such option. A teacher may train for
days before its first student is built, and a study for as long before its fifth variant is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import torch

from distill.batch import Batch
from distill.cells import NONE, Cell
from distill.config import DomainTeacherConfig, OptimizerConfig, StudentConfig, TeacherConfig
from distill.errors import ConfigErrors, DataError, Problem, UserError
from distill.protocols import Architecture, Channel
from distill.user_file import is_user_file
from experiments.pipeline.build import build_autoencoder, build_model, build_student
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.jobs import a_batch, is_done
from experiments.pipeline.supply import check_supply
from experiments.pipeline.training import with_rows

_SEED = 0
"""Of what is thrown away."""


def rehearse(experiment: Experiment) -> None:
    """Build what a run has still to train; see `rehearse_all`."""
    seeds = experiment.config.seeds
    missing = [
        (experiment, cell)
        for cell in experiment.cells
        if not all(is_done(experiment, cell, seed) for seed in seeds)
    ]
    rehearse_all({"": missing})


def rehearse_all(models: Mapping[str, Iterable[tuple[Experiment, Cell]]]) -> None:
    """Build models with their channels, look whether these find what they learn from, and throw all of it away.

    Args:
        models: to be trained, teachers first, by where they come from, such as `study.yaml: slices.fresh`; "" says
            nothing of it.

    Raises:
        ConfigErrors: what is refused, all of it, each once.
        DataError: a day of the data cannot be read.
    """
    rehearsal = _Rehearsal()
    problems: dict[tuple[str, str, str], Problem] = {}
    each = ((place, experiment, cell) for place, of in models.items() for experiment, cell in of)
    # Nor may a model of one's own be another for having been rehearsed.
    with torch.random.fork_rng(devices=[]):
        for place, experiment, cell in each:
            try:
                rehearsal.build(experiment, cell)
            except DataError:
                raise
            except UserError as error:
                if (cell.model, NONE, str(error)) not in problems:  # what it refuses whatever it learns by
                    key = (cell.model, cell.channel, str(error))
                    problems.setdefault(key, _problem(place, cell, error))
            except Exception as error:  # of a user's own architecture, most likely
                error.add_note(_model(cell))
                raise
    if problems:
        raise ConfigErrors(list(problems.values()))


def _model(cell: Cell) -> str:
    return f"{cell.role.replace('_', ' ')} '{cell.model}'"


def _problem(place: str, cell: Cell, error: UserError) -> Problem:
    model = _model(cell)
    key = "" if cell.channel == NONE else f"channels.{cell.channel}"
    said = str(error).removeprefix(f"{model}: ")
    return Problem(f"{place}: {model}" if place else model, key, "", "", said)


class _Rehearsal:
    """What has been built so far: models that differ in nothing that decides how they are built are built once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._refused: set[str] = set()
        self._teachers: dict[str, Architecture] = {}  # that a channel has asked for

    def build(self, experiment: Experiment, cell: Cell) -> None:
        """Build a model, unless it has been; UserError where it, or its surface, is refused."""
        schedule, is_teacher = experiment.schedule, cell in experiment.logged_cells
        with_rows(experiment, cell, schedule.teacher_plan() if is_teacher else schedule.student_plan())
        key = _key(experiment, cell)
        if key not in self._seen:
            self._seen.add(key)
            self._refused.add(key)
            self._new(experiment, cell)
            self._refused.remove(key)

    def _new(self, experiment: Experiment, cell: Cell) -> Architecture:
        config, schema, base = experiment.cells[cell], experiment.data.schema, experiment.base
        channels = experiment.channels_of(cell)
        if cell == experiment.teacher_cell:
            model = build_model(cell.role, config, config.optimizer, schema, _SEED, base)
        else:
            model, built = build_student(config, channels, config.optimizer, schema, _SEED, base)
            self._check_sources(experiment, cell, built.values())
        if is_user_file(config.architecture) and not channels:  # nobody else has ever called it
            _check_output(model, a_batch(experiment, cell, model, config.optimizer.batch_size))
        if isinstance(config, TeacherConfig):
            build_autoencoder(config.representation, model, _SEED)
        return model

    def _check_sources(self, experiment: Experiment, cell: Cell, channels: Collection[Channel]) -> None:
        """What channels are to learn from will be there."""
        check_supply(experiment, cell, channels)
        for channel in channels:
            if "snapshot" in channel.needs:
                of = experiment.teacher_of(cell)
                key = _key(experiment, of)
                if key in self._refused:  # which is told already
                    continue
                if key not in self._teachers:
                    self._teachers[key] = self._new(experiment, of)
                channel.check_teacher(self._teachers[key], of.model)


@torch.no_grad()
def _check_output(model: Architecture, batch: Batch) -> None:
    """What a model says of a batch has the shapes that `Architecture` and `Output` ask for."""
    output, examples = model(batch), len(batch)
    shapes = {"logits": (output.logits, len(model.tasks), "tasks")}
    shapes |= {
        f"taps.{n}": (output.taps.get(n), w, f"tap_widths['{n}']") for n, w in model.tap_widths.items()
    }
    for name, (found, width, why) in shapes.items():
        got = "nothing" if found is None else list(found.shape)
        if got != [examples, width]:
            raise UserError(
                f"{type(model).__name__}.forward: {name}: got {got}, allowed: {[examples, width]}, the batch and {why}"
            )


def _key(experiment: Experiment, cell: Cell) -> str:
    """What decides how a model is built and whom it learns from, as text."""
    model, channels = experiment.cells[cell], experiment.channels_of(cell)
    asks_others = any(options.get("other_surfaces") for options in channels.values())
    learns = bool(channels) and experiment.teacher_cell is not None
    parts = (
        cell.role,
        _shape(model),
        channels,
        cell.vertical if asks_others else "",
        _key(experiment, experiment.teacher_of(cell)) if learns else "",
        experiment.data.fingerprint,
    )
    return repr(parts)


def _shape(model: TeacherConfig | StudentConfig) -> TeacherConfig | StudentConfig:
    """A model's part of the config without what decides only where and how it is trained."""
    if isinstance(model, StudentConfig):
        model = replace(model, channels=[], channel_optimizers={}, channel_settings={})
    if isinstance(model, StudentConfig | DomainTeacherConfig):
        model = replace(model, verticals=[])
    return replace(model, optimizer=OptimizerConfig())
