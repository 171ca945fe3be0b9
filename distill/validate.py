"""The meaning of an experiment whose types are right: names, ranges, files, what fits to what. Free of torch.

Everything is looked at, whatever was found before; a check is left out only where a problem at the same place
would make it guess.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from distill.channel_sets import channel_set
from distill.checks import check_at_least, check_known, check_name, check_options, check_unique
from distill.config import DataConfig, ExperimentConfig, StudentConfig, TeacherConfig
from distill.delay import NOT_SIMULATED, SIMULATED
from distill.errors import UserError, nearest
from distill.findings import Findings, show
from distill.registry import CHANNELS, SOURCES
from distill.schema import FeatureSchema
from distill.strict_yaml import KeyPath
from distill.structured import build
from distill.validate_models import (
    check_against_schema,
    check_sampling,
    check_start,
    check_student,
    check_teacher,
)
from distill.validate_schedule import check_schedule
from distill.validate_sharding import check_sharding
from distill.validate_transfer import check_domain_teachers, check_needs

NONE = "none"
"""The channel set without channels; always trained."""

LARGEST_SEED = 2**32 - 1
"""What numpy takes as a seed."""

MOST_THREADS = 1024
"""More of them end a process before it computes anything."""


def check_experiment(config: ExperimentConfig, findings: Findings) -> FeatureSchema | None:
    """Check an experiment and fill in what it leaves to defaults: options and the students' channels.

    Args:
        config: changed in place.
        findings: gets the problems.

    Returns:
        The data set's schema, when its source can tell it before the data set is prepared.
    """
    check_name(config.name, ("name",), findings)
    _check_seeds(config.seeds, findings)
    check_at_least(config.workers, 0, ("workers",), findings)
    check_at_least(config.bank, 1, ("bank",), findings)
    check_at_least(config.threads, 1, ("threads",), findings)
    if config.threads > MOST_THREADS:
        findings.add(
            ("threads",), str(config.threads), f"at most {MOST_THREADS}, and best no more than processors"
        )
    check_at_least(config.checkpoint.every_minutes, 0, ("checkpoint", "every_minutes"), findings)
    check_at_least(config.checkpoint.every_batches, 0, ("checkpoint", "every_batches"), findings)
    check_at_least(config.checkpoint.keep, 1, ("checkpoint", "keep"), findings)
    if not config.wandb.project.strip():
        findings.add(("wandb", "project"), show(config.wandb.project), "a project name")
    _check_folder(config.output, ("output",), findings)
    _check_folder(config.data.cache, ("data", "cache"), findings)
    schema = _check_data(config.data, findings)
    for index, domain_teacher in enumerate(config.domain_teachers):
        check_start(domain_teacher, config.seeds, ("domain_teachers", index), findings)
    if config.teacher is not None:
        check_teacher(config.teacher, ("teacher",), findings)
        check_start(config.teacher, config.seeds, ("teacher",), findings)
    elif not config.students:
        findings.add(("students",), "no student and no teacher", "a teacher, students or both")
    _check_channel_sets(config, findings)
    _check_students(config, findings)
    check_domain_teachers(config, schema, findings)
    _check_delayed_labels(config, findings)
    check_schedule(config.schedule, (schema.n_days or None) if schema else None, findings)
    _check_fit(config, schema, findings)
    check_sharding(config, schema, findings)
    check_needs(config, schema, findings)
    return schema


def _check_seeds(seeds: list[int], findings: Findings) -> None:
    if not seeds:
        findings.add(("seeds",), "an empty list", "at least one seed, such as [0]")
    for index, seed in enumerate(seeds):
        if not 0 <= seed <= LARGEST_SEED:
            findings.add(("seeds", index), show(seed), f"0 to {LARGEST_SEED}")
    check_unique(seeds, ("seeds",), findings)


def _check_folder(folder: str, path: tuple[str, ...], findings: Findings) -> None:
    if not folder.strip():
        findings.add(path, show(folder), "a folder")
    elif "\0" in folder or (os.path.exists(folder) and not os.path.isdir(folder)):
        findings.add(path, f"{show(folder)}, which is no folder", "a folder, or a name that is free")


def _check_data(data: DataConfig, findings: Findings) -> FeatureSchema | None:
    """Source, its options and root; then the schema, when nothing of it is in doubt."""
    places = ("data", "source"), ("data", "options")
    data.options = check_options(SOURCES, data.source, data.options, places, findings)
    if data.source not in SOURCES:
        return None
    entry = SOURCES.get(data.source)
    if "root" not in entry.needs and data.root is not None:
        findings.add(("data", "root"), show(data.root), f"null, the source '{data.source}' reads no files")
    elif "root" in entry.needs and data.root is None:
        hint = "Name it here or with --set data.root=FOLDER."
        findings.add(("data", "root"), "nothing", f"the folder of the source '{data.source}'", hint)
    elif data.root is not None and not os.path.isdir(data.root):
        allowed = f"an existing folder, relative to {Path.cwd()}"
        findings.add(("data", "root"), f"{show(data.root)}, no such folder", allowed)
    return None if findings.touches(("data",)) else _read_schema(data, findings)


def _read_schema(data: DataConfig, findings: Findings) -> FeatureSchema | None:
    """A look at the source's files; then what its module says by `schema(config, data)`, if it does."""
    entry = SOURCES.get(data.source)
    config = build(entry.config, data.options)
    module = importlib.import_module(entry.builder.partition(":")[0])
    try:
        config.files(data)
        return module.schema(config, data) if hasattr(module, "schema") else None
    except UserError as error:
        findings.add_message(("data",), str(error))
        return None


def _check_channel_sets(config: ExperimentConfig, findings: Findings) -> None:
    for set_name, channels in config.channels.items():
        check_name(set_name, ("channels", set_name), findings)
        if set_name == NONE and channels:
            findings.add(("channels", NONE), show(channels), "{}: `none` is the set without channels")
            continue
        for name in channels:
            place = ("channels", set_name, name)
            channels[name] = check_options(CHANNELS, name, channels[name], (place, place), findings)
    config.channels = {NONE: {}, **config.channels}


def _check_students(config: ExperimentConfig, findings: Findings) -> None:
    check_unique([student.name for student in config.students], ("students",), findings, below=("name",))
    for index, student in enumerate(config.students):
        check_student(student, ("students", index), findings)
        _check_sets(student.channels, config.channels, ("students", index, "channels"), findings)
        place = ("students", index, "channel_optimizers")
        check_known(student.channel_optimizers, config.channels, place, findings)
        _check_own_settings(student, index, config, findings)
        asked = student.channels or list(config.channels)
        student.channels = [NONE, *(name for name in asked if name != NONE)]


def _check_sets(names: list[str], sets: dict[str, Any], path: KeyPath, findings: Findings) -> None:
    """A student names sets of the experiment; who names a channel is told how a set is made of it."""
    for index, name in enumerate(names):
        if name not in sets:
            hint = nearest(name, sets)
            if name in CHANNELS:
                hint = (
                    f"Make a set of the channel: `channels: {{{name}: {{{name}: {{}}}}}}` in the experiment."
                )
            findings.add(
                (*path, index), show(name), f"{', '.join(sets)}: the experiment's channel sets", hint
            )


def _check_own_settings(
    student: StudentConfig, index: int, config: ExperimentConfig, findings: Findings
) -> None:
    """The student's own settings of channels; completed by the experiment's."""
    place: KeyPath = ("students", index, "channel_settings")
    check_known(student.channel_settings, config.channels, place, findings)
    for set_name, own in student.channel_settings.items():
        shared = config.channels.get(set_name, {})
        check_known(own, shared, (*place, set_name), findings)
        complete = {name: {**options, **own.get(name, {})} for name, options in shared.items()}
        for name in own:
            if name in complete:
                path = (*place, set_name, name)
                complete[name] = check_options(CHANNELS, name, complete[name], (path, path), findings)
        student.channel_settings[set_name] = complete


def _check_delayed_labels(config: ExperimentConfig, findings: Findings) -> None:
    """Nobody learns from labels of the future, where it is not a control."""
    if config.data.source == SIMULATED or findings.touches(("data", "source")):
        return
    models: dict[KeyPath, TeacherConfig | StudentConfig | None] = {("teacher",): config.teacher}
    models |= {("domain_teachers", index): model for index, model in enumerate(config.domain_teachers)}
    models |= {("students", index): model for index, model in enumerate(config.students)}
    for path, model in models.items():
        if model is not None and model.delayed_labels == "final":
            got = f"'final' for the source '{config.data.source}'"
            findings.add((*path, "delayed_labels"), got, NOT_SIMULATED)


def _check_fit(config: ExperimentConfig, schema: FeatureSchema | None, findings: Findings) -> None:
    """What the parts ask of each other."""
    if config.teacher is None:
        _check_without_teacher(config, findings)
    elif schema is not None:
        check_against_schema(config.teacher, schema, ("teacher",), findings)
    known_tasks = list(schema.task_names) if schema is not None else []
    for index, student in enumerate(config.students):
        if schema is not None:
            check_against_schema(student, schema, ("students", index), findings)
        check_sampling(student, student.tasks or known_tasks, ("students", index), findings)
        if config.teacher is not None and _learning_sets(config, student):
            _check_taught(student, index, config.teacher.tasks or known_tasks, known_tasks, findings)


def _check_taught(
    student: StudentConfig, index: int, taught: list[str], known: list[str], findings: Findings
) -> None:
    """Every task of a student that learns from the teacher is one of the teacher's."""
    path = ("students", index, "tasks")
    missing = [task for task in student.tasks or known if task not in taught]
    if taught and missing and not findings.touches(("teacher", "tasks")):
        hint = nearest(missing[0], taught)
        findings.add(path, f"{', '.join(missing)}, which the teacher does not learn", ", ".join(taught), hint)


def _check_without_teacher(config: ExperimentConfig, findings: Findings) -> None:
    used = {
        (set_name, name)
        for student in config.students
        for set_name in _learning_sets(config, student)
        for name in _teacher_channels(config, student, set_name)
    }
    for set_name, name in sorted(used):
        allowed = "channels that need no teacher, since `teacher` is null"
        findings.add(("channels", set_name, name), f"the channel '{name}' without its teacher", allowed)


def _learning_sets(config: ExperimentConfig, student: StudentConfig) -> list[str]:
    """The student's channel sets that learn from the teacher."""
    return [name for name in student.channels if _teacher_channels(config, student, name)]


def _teacher_channels(config: ExperimentConfig, student: StudentConfig, set_name: str) -> list[str]:
    channels = channel_set(config, student, set_name)
    known = [name for name in channels if name in CHANNELS]
    # One that is given a snapshot brings its teacher with it.
    return [n for n in known if "teacher" in CHANNELS.get(n).needs and channels[n].get("snapshot") is None]
