"""The meaning of an experiment's routes: domain teachers, who learns from whom, what channels need of it.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.cells import JOIN
from distill.channel_sets import channel_set
from distill.checks import check_unique
from distill.config import ExperimentConfig, StudentConfig, TeacherConfig
from distill.errors import nearest
from distill.findings import Findings, show
from distill.registry import CHANNELS
from distill.schema import FeatureSchema
from distill.strict_yaml import KeyPath
from distill.validate_models import check_against_schema, check_domain_teacher
from distill.validate_privileged import check_privileged

Channels = Mapping[str, dict[str, Any]]
"""Of a set: channel to its settings."""


def check_domain_teachers(config: ExperimentConfig, schema: FeatureSchema | None, findings: Findings) -> None:
    """Domain teachers and the students that learn from them.

    Args:
        config: the experiment; the domain teachers' options are filled in.
        schema: the data set's schema, when it is known.
        findings: gets the problems.
    """
    place = "domain_teachers"
    check_unique([model.name for model in config.domain_teachers], (place,), findings, below=("name",))
    for index, model in enumerate(config.domain_teachers):
        path = (place, index)
        check_domain_teacher(model, path, findings)
        if schema is not None:
            check_against_schema(model, schema, path, findings)
        if model.channel not in config.channels:
            allowed, hint = ", ".join(config.channels), nearest(model.channel, config.channels)
            findings.add((*path, "channel"), show(model.channel), allowed, hint)
        if config.teacher is None:
            findings.add(path, "a domain teacher without a teacher", "none, since `teacher` is null")
        elif model.name == config.teacher.name:
            findings.add((*path, "name"), show(model.name), "a name that the teacher has not")
        for vertical in model.verticals:
            if JOIN in vertical:
                findings.add(
                    (*path, "verticals"), show(vertical), f"surfaces without '{JOIN}' in their names"
                )
    if config.domain_teachers and config.schedule.kind == "frozen":
        allowed = (
            "progressive: under a frozen schedule domain teachers and students would learn on the same days"
        )
        findings.add(("schedule", "kind"), "'frozen' beside domain teachers", allowed)
    for index, student in enumerate(config.students):
        if student.route == "hierarchical":
            _check_covered(student, index, config, findings)


def _check_covered(student: StudentConfig, index: int, config: ExperimentConfig, findings: Findings) -> None:
    """Every surface of the student has exactly one domain teacher."""
    for vertical in student.verticals:
        names = [model.name for model in config.domain_teachers if vertical in model.verticals]
        if len(names) != 1:
            got = f"'{vertical}', a surface of {' and '.join(names) or 'no domain teacher'}"
            findings.add(("students", index, "verticals"), got, "surfaces of exactly one domain teacher")


def check_needs(config: ExperimentConfig, schema: FeatureSchema | None, findings: Findings) -> None:
    """What the channels of students and domain teachers need of those they learn from.

    Args:
        config: the experiment.
        schema: the data set's schema, when it is known.
        findings: gets the problems.
    """
    if config.teacher is None:
        return  # reported where the teacher is looked for
    for model in config.domain_teachers:
        name, channels = model.channel, channel_set(config, model, model.channel)
        _check_set(name, channels, [config.teacher], findings)
        _check_others(name, channels, dict.fromkeys(model.verticals, 0), findings)
        _check_privileged(model, name, channels, [config.teacher], schema, findings)
    for student in config.students:
        of_domain = [m for m in config.domain_teachers if set(m.verticals) & set(student.verticals)]
        hierarchical = student.route == "hierarchical"
        sources: list[TeacherConfig] = [*of_domain] if hierarchical else [config.teacher]
        # A direct student has the domain teachers of its surface beside its own; below one of these, the teacher.
        others = {v: sum(v in m.verticals for m in config.domain_teachers) for v in student.verticals}
        for name in student.channels:
            channels = channel_set(config, student, name)
            _check_set(name, channels, sources, findings)
            _check_others(name, channels, others, findings)
            _check_privileged(student, name, channels, sources, schema, findings)


def _check_set(name: str, channels: Channels, sources: list[TeacherConfig], findings: Findings) -> None:
    for channel, options in channels.items():
        if channel not in CHANNELS:
            continue
        path = ("channels", name, channel)
        if "representation" in CHANNELS.get(channel).needs:
            for source in sources:
                _check_representation(source, options.get("dim"), path, findings)


def _check_others(name: str, channels: Channels, others: Mapping[str, int], findings: Findings) -> None:
    """Channels of several teachers find on every surface as many as they say."""
    for channel, options in channels.items():
        if channel not in CHANNELS or "others" not in CHANNELS.get(channel).needs:
            continue
        path = ("channels", name, channel)
        for surface, count in others.items():
            if not count:
                got = f"the channel '{channel}', which weighs several teachers"
                findings.add(path, got, f"channels of one teacher, since only one knows '{surface}'")
            elif options.get("teachers", count + 1) != count + 1:
                allowed = f"{count + 1}, the teachers of a student of '{surface}'"
                findings.add((*path, "teachers"), show(options["teachers"]), allowed)


def _check_privileged(
    pupil: StudentConfig | TeacherConfig,
    name: str,
    channels: Channels,
    sources: list[TeacherConfig],
    schema: FeatureSchema | None,
    findings: Findings,
) -> None:
    for channel in channels:
        if channel in CHANNELS and "privileged" in CHANNELS.get(channel).needs:
            for source in sources:
                check_privileged(pupil, source, schema, ("channels", name, channel), findings)


def _check_representation(source: TeacherConfig, dim: int | None, path: KeyPath, findings: Findings) -> None:
    """The teacher's log holds representations of the width that the channel reads."""
    if source.representation is None:
        got = f"a channel that reads representations, and '{source.name}' has none"
        findings.add(path, got, "channels that read none, or a teacher with `representation`")
        return
    widths = [*source.representation.prefixes, source.representation.dim]
    if dim is not None and dim not in widths:
        allowed = (
            f"{', '.join(map(str, widths))}: representation.dim of '{source.name}', or one of its prefixes"
        )
        findings.add((*path, "dim"), str(dim), allowed)
