"""The meaning of a teacher's or a student's section: architecture, settings, inputs, tasks. Free of torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from distill.checks import (
    check_at_least,
    check_known,
    check_name,
    check_options,
    check_positive,
    check_unique,
)
from distill.config import (
    DomainTeacherConfig,
    OptimizerConfig,
    RepresentationConfig,
    StudentConfig,
    TeacherConfig,
    of_seed,
)
from distill.findings import Findings, show
from distill.registry import STUDENTS, TEACHERS, Registry
from distill.sampling import ONE_TASK
from distill.schema import FeatureSchema
from distill.strict_yaml import KeyPath
from distill.user_file import FORM, check, is_user_file


def check_teacher(teacher: TeacherConfig, path: KeyPath, findings: Findings) -> None:
    """What can be said of a teacher without a schema; its options are filled in."""
    check_name(teacher.name, (*path, "name"), findings)
    _check_model(TEACHERS, teacher, path, findings)
    if teacher.representation is not None:
        _check_representation(teacher.representation, (*path, "representation"), findings)


def check_start(teacher: TeacherConfig, seeds: list[int], path: KeyPath, findings: Findings) -> None:
    """The models that a teacher begins with are there."""
    if teacher.start is None:
        return
    for file in dict.fromkeys(of_seed(teacher.start, seed) for seed in seeds):
        if "\0" in file or not Path(file).is_file():
            findings.add((*path, "start"), f"'{file}'", f"an existing file, relative to {Path.cwd()}")


def check_domain_teacher(teacher: DomainTeacherConfig, path: KeyPath, findings: Findings) -> None:
    """What can be said of a domain teacher without an experiment and a schema; its options are filled in."""
    check_teacher(teacher, path, findings)
    _check_verticals(teacher.verticals, path, findings)


def check_student(student: StudentConfig, path: KeyPath, findings: Findings) -> None:
    """What can be said of a student without an experiment and a schema; its options are filled in."""
    check_name(student.name, (*path, "name"), findings)
    _check_verticals(student.verticals, path, findings)
    check_unique(student.channels, (*path, "channels"), findings)
    for name, optimizer in student.channel_optimizers.items():
        _check_optimizer(optimizer, (*path, "channel_optimizers", name), findings)
    _check_model(STUDENTS, student, path, findings)


def check_against_schema(
    model: TeacherConfig | StudentConfig, schema: FeatureSchema, path: KeyPath, findings: Findings
) -> None:
    """Tasks, features and verticals that the data set does not have."""
    check_known(model.tasks, schema.task_names, (*path, "tasks"), findings)
    check_known(model.features, schema.sparse, (*path, "features"), findings)
    check_known(model.dense, schema.dense, (*path, "dense"), findings)
    check_known(model.content, schema.content, (*path, "content"), findings)
    if isinstance(model, StudentConfig | DomainTeacherConfig):
        check_known(model.verticals, schema.verticals, (*path, "verticals"), findings)


def check_sampling(student: StudentConfig, tasks: list[str], path: KeyPath, findings: Findings) -> None:
    """Negatives are dropped only where the loss of it can be made good.

    Args:
        student: of the experiment.
        tasks: those that it predicts; none when they are not known before the data set is prepared.
        path: of the student.
        findings: gets the problems.
    """
    share, path = student.negative_sampling, (*path, "negative_sampling")
    if not 0 < share <= 1:
        findings.add(path, str(share), "above 0 and up to 1, which keeps all rows")
    elif share < 1 and len(tasks) > 1:
        findings.add(path, f"{share} with the tasks {', '.join(tasks)}", ONE_TASK)
    elif share < 1 and student.delayed_labels == "weighted":
        allowed = (
            "1, or `delayed_labels: matured`: a weighted target of 0 may be a positive that is not seen yet"
        )
        findings.add(path, f"{share} with weighted labels", allowed)


def architecture_by_content(architecture: str) -> str:
    """The architecture's name, a user's file replaced by the sha256 of its text: no machine's path in it."""
    if not is_user_file(architecture):
        return architecture
    file, _, class_name = architecture.rpartition(":")
    return f"{hashlib.sha256(Path(file).read_bytes()).hexdigest()}:{class_name}"


def _check_model(
    registry: Registry, model: TeacherConfig | StudentConfig, path: KeyPath, findings: Findings
) -> None:
    for key in ("tasks", "features", "dense", "content"):
        check_unique(getattr(model, key), (*path, key), findings)
    _check_optimizer(model.optimizer, (*path, "optimizer"), findings)
    places = (*path, "architecture"), (*path, "options")
    if is_user_file(model.architecture):
        model.architecture = _check_user_file(model.architecture, places[0], findings)
    else:
        name, others = model.architecture, [FORM]
        model.options = check_options(registry, name, model.options, places, findings, others)
        if model.content and name in registry and "content" not in registry.get(name).reads:
            allowed = f"an empty list, the architecture '{name}' reads no content vectors"
            findings.add((*path, "content"), show(model.content), allowed)


def _check_verticals(verticals: list[str], path: KeyPath, findings: Findings) -> None:
    if not verticals:
        findings.add((*path, "verticals"), "nothing", "at least one surface of the data set")
    check_unique(verticals, (*path, "verticals"), findings)


def _check_user_file(architecture: str, path: KeyPath, findings: Findings) -> str:
    """The reference with an absolute path; the file is parsed, never executed."""
    folder = findings.folder(path)
    try:
        check(architecture, folder)
    except ValueError as error:
        findings.add_message(path, str(error))
        return architecture
    file, _, class_name = architecture.rpartition(":")
    return f"{(folder / file).resolve()}:{class_name}"


def _check_optimizer(optimizer: OptimizerConfig, path: KeyPath, findings: Findings) -> None:
    check_at_least(optimizer.batch_size, 1, (*path, "batch_size"), findings)
    check_positive(optimizer.learning_rate, (*path, "learning_rate"), findings)
    check_positive(optimizer.table_learning_rate, (*path, "table_learning_rate"), findings)
    check_at_least(optimizer.weight_decay, 0, (*path, "weight_decay"), findings)
    check_at_least(optimizer.clip_norm, 0, (*path, "clip_norm"), findings)


def _check_representation(config: RepresentationConfig, path: KeyPath, findings: Findings) -> None:
    """What can be said without the architecture, which alone knows its taps."""
    if not config.taps:
        findings.add(
            (*path, "taps"), "an empty list", "at least one tap of the teacher, such as [penultimate]"
        )
    check_unique(config.taps, (*path, "taps"), findings)
    check_at_least(config.dim, 1, (*path, "dim"), findings)
    for index, width in enumerate(config.hidden):
        check_at_least(width, 1, (*path, "hidden", index), findings)
    for index, width in enumerate(config.prefixes):
        least = config.prefixes[index - 1] + 1 if index else 1
        if not least <= width < config.dim:
            allowed = f"rising widths from 1 to {config.dim - 1}, below dim"
            findings.add((*path, "prefixes", index), str(width), allowed)
    check_positive(config.learning_rate, (*path, "learning_rate"), findings)
