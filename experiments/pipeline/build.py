"""Composition: from names in a config to a data set's architecture and its channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters.autoencoder import Autoencoder
from distill.config import OptimizerConfig, RepresentationConfig, StudentConfig, TeacherConfig
from distill.errors import UserError
from distill.protocols import Architecture, Channel
from distill.registry import CHANNELS, STUDENTS, TEACHERS
from distill.schema import FeatureSchema
from distill.structured import build
from distill.user_file import build as build_user_file
from distill.user_file import is_user_file

_REGISTRIES = {"teacher": TEACHERS, "domain_teacher": TEACHERS, "student": STUDENTS}


def architecture_options(role: str, model: TeacherConfig | StudentConfig) -> dict[str, Any]:
    """All options of a model, defaults included; a user's own architecture keeps what the file says.

    Args:
        role: `teacher` or `student`.
        model: its part of the config.
    """
    if is_user_file(model.architecture):
        return dict(model.options)
    return asdict(build(_REGISTRIES[role].get(model.architecture).config, model.options))


def build_model(
    role: str,
    model: TeacherConfig | StudentConfig,
    optimizer: OptimizerConfig,
    schema: FeatureSchema,
    seed: int,
    base: Path,
    extra_fields: int = 0,
    extra_history: int = 0,
) -> Architecture:
    """Build a teacher or student.

    Args:
        role: `teacher` or `student`.
        model: its part of the config.
        optimizer: its training settings; the tables carry their own learning rate.
        schema: the data set's schema.
        seed: of its initial values.
        base: folder that paths of a user's own architectures are relative to.
        extra_fields: how many fields channels will give it.
        extra_history: how many of the user's last events channels will read.

    Raises:
        UserError: the model asks for content vectors or is given fields, and its architecture reads none.
    """
    shared: dict[str, Any] = {
        "schema": schema,
        "tasks": tuple(model.tasks) or schema.task_names,
        "features": tuple(model.features) or tuple(schema.sparse),
        "dense_features": tuple(model.dense) or schema.dense,
        "seed": seed,
        "table_learning_rate": optimizer.table_learning_rate,
    }
    if model.content:
        shared["content"] = tuple(model.content)
    if extra_fields:
        shared["extra_fields"] = extra_fields
    if extra_history:
        shared["extra_history"] = extra_history
    if is_user_file(model.architecture):
        return build_user_file(model.architecture, base, model.options, **shared)
    entry = _REGISTRIES[role].get(model.architecture)
    if model.content and "content" not in entry.reads:
        raise UserError(
            f"content: got {', '.join(model.content)}, allowed: nothing, the architecture '{model.architecture}' reads "
            "no content vectors"
        )
    if extra_fields and "fields" not in entry.reads:
        readers = [other.name for other in _REGISTRIES[role].entries() if "fields" in other.reads]
        raise UserError(
            f"channels: got one that gives fields, allowed for the architecture '{model.architecture}': channels that "
            f"only teach. Architectures that read fields: {', '.join(readers)}"
        )
    return entry.load()(build(entry.config, model.options), **shared)


def build_autoencoder(
    config: RepresentationConfig | None, teacher: Architecture, seed: int
) -> dict[str, Autoencoder]:
    """The channel that compresses a teacher's taps for its log, by name.

    Args:
        config: what is asked for; None for no such channel.
        teacher: the teacher.
        seed: of the initial values.

    Raises:
        UserError: the teacher has no such tap.
    """
    if config is None:
        return {}
    autoencoder = Autoencoder(config, seed)
    autoencoder.attach(teacher)
    return {"representation": autoencoder}


def build_channels(
    channels: Mapping[str, Mapping[str, Any]], schema: FeatureSchema, seed: int
) -> dict[str, Channel]:
    """Build a channel set; each is to be attached to the student that learns by it.

    Args:
        channels: channel name to its settings; empty for `none`.
        schema: the data set's schema.
        seed: of their initial values.
    """
    built = {}
    for name, options in channels.items():
        entry = CHANNELS.get(name)
        built[name] = entry.load()(build(entry.config, options), schema=schema, seed=seed)
    return built


def build_student(
    student: StudentConfig | TeacherConfig,
    channels: Mapping[str, Mapping[str, Any]],
    optimizer: OptimizerConfig,
    schema: FeatureSchema,
    seed: int,
    base: Path,
) -> tuple[Architecture, dict[str, Channel]]:
    """Build a student with room for the fields that its channels give, and attach these.

    Args:
        student: its part of the config, or that of a domain teacher, which learns as a student does.
        channels: its channel set.
        optimizer, schema, seed, base: see `build_model`.
    """
    built = build_channels(channels, schema, seed)
    extra_fields = sum(len(channel.fields) for channel in built.values())
    extra_history = max((channel.history_length for channel in built.values()), default=0)
    model = build_model("student", student, optimizer, schema, seed, base, extra_fields, extra_history)
    if isinstance(student, StudentConfig):
        model.negative_sampling = student.negative_sampling
    for channel in built.values():
        channel.attach(model)
    return model, built
