"""What the result of one training depends on: the experiment's settings, restricted to what reaches one model.

A training is done when it ended with these settings and this data. A student that is added, another one's optimiser,
a further seed change nothing for the others. Free of torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from distill.by_content import by_content, content_of
from distill.cells import DOMAIN_TEACHER, NONE, Cell
from distill.config import (
    DomainTeacherConfig,
    ExperimentConfig,
    StudentConfig,
    TeacherConfig,
    WandbConfig,
    of_seed,
)
from distill.load_config import deciding
from distill.registry import CHANNELS
from distill.structured import to_plain
from experiments.pipeline import domains

Model = TeacherConfig | DomainTeacherConfig | StudentConfig


def settings_hash(config: ExperimentConfig, cell: Cell, model: Model | None) -> str:
    """sha256 (hex) of what decides about one model in every seed; files that it names enter by what stands in them.

    Args:
        config: the experiment, resolved.
        cell: the model's.
        model: its part of the config; None for what only reads the data, such as the floor.
    """
    reached = replace(reaching(config, cell, model), floor=False, wandb=WandbConfig(enabled=False))
    plain = deciding(to_plain(by_content(anywhere(reached), seeds=[])))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def with_starts(settings: str, starts: Sequence[str], seeds: Iterable[int]) -> str:
    """sha256 (hex) of that together with files of seeds.

    Args:
        settings: of `settings_hash`.
        starts: paths with `{seed}` in them, of `distill.by_content.starts_by_seed`; none leave it as it is.
        seeds: whose files count.
    """
    if not starts:
        return settings
    files = [content_of(of_seed(start, seed) for start in starts) for seed in seeds]
    return hashlib.sha256(json.dumps([settings, files]).encode()).hexdigest()


def reaching(config: ExperimentConfig, cell: Cell, model: Model | None) -> ExperimentConfig:
    """The experiment restricted to what reaches one model; the arguments are those of `settings_hash`."""
    teaching = [of for of in config.domain_teachers if cell.vertical in of.verticals]
    return decisive(alone(replace(config, domain_teachers=teaching), cell, model), cell)


def anywhere(config: ExperimentConfig) -> ExperimentConfig:
    """The settings without what decides about no training: its seed, where things lie, what runs beside it.

    The data's folder is left out because its content is not: it has a fingerprint.
    """
    data = replace(config.data, root=None, cache="")
    return replace(config, output="", seeds=[], data=data, workers=0, bank=1)


def alone(config: ExperimentConfig, cell: Cell, model: Model | None) -> ExperimentConfig:
    """The experiment with one model and whom it learns from.

    Args:
        config: the experiment.
        cell: the model's.
        model: its part of the config; None for no model at all.
    """
    if isinstance(model, DomainTeacherConfig):
        return _with_sets(replace(config, domain_teachers=[model], students=[]), [cell.channel])
    if not isinstance(model, StudentConfig):
        return replace(config, teacher=model, channels={NONE: {}}, domain_teachers=[], students=[])
    student = replace(
        model,
        verticals=[cell.vertical],
        channels=[NONE, cell.channel],
        optimizer=model.channel_optimizers.get(cell.channel, model.optimizer),
        channel_optimizers={},
        channel_settings={name: own for name, own in model.channel_settings.items() if name == cell.channel},
    )
    config = replace(config, students=[student])
    if cell.channel == NONE or not domains.teach(config):
        config = replace(config, domain_teachers=[])
    return _with_sets(config, [cell.channel, *(of.channel for of in config.domain_teachers)])


def decisive(alone: ExperimentConfig, cell: Cell) -> ExperimentConfig:
    """What decides about the model: neither the lag where it reads no log, nor the days of others.

    Args:
        alone: of the function of that name.
        cell: the model's.
    """
    if cell.role == DOMAIN_TEACHER:
        return alone
    direct = replace(alone, schedule=replace(alone.schedule, lag=0))
    if not alone.students:
        return replace(direct, schedule=replace(direct.schedule, student_first_day=0, student_last_day=0))
    if not any("teacher" in CHANNELS.get(name).needs for name in alone.channels[cell.channel]):
        students = [replace(student, route="direct") for student in alone.students]
        return replace(direct, teacher=None, domain_teachers=[], students=students)
    return alone


def _with_sets(config: ExperimentConfig, names: Sequence[str]) -> ExperimentConfig:
    return replace(config, channels={NONE: {}, **{name: config.channels.get(name, {}) for name in names}})
