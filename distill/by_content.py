"""A config with what stands in the files that it names in the place of their paths: what decides about a training.

A file that is trained or written anew under the same name is another setting. Free of torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from distill.config import ExperimentConfig, StudentConfig, TeacherConfig, of_seed
from distill.registry import CHANNELS
from distill.sources.fingerprint import file_digest
from distill.structured import build
from distill.validate_models import architecture_by_content

T = TypeVar("T", bound=TeacherConfig)
Sets = dict[str, dict[str, dict[str, Any]]]
"""Channel set to channel to settings."""


def by_content(config: ExperimentConfig, seeds: Sequence[int]) -> ExperimentConfig:
    """The config with the sha256 of files in the place of their paths; one that names no file stays as it is.

    Args:
        config: checked.
        seeds: whose files count where a path holds `{seed}`.
    """
    return replace(
        config,
        teacher=None if config.teacher is None else _teacher(config.teacher, seeds),
        domain_teachers=[_teacher(model, seeds) for model in config.domain_teachers],
        students=[_student(model) for model in config.students],
        channels=_sets(config.channels),
    )


def starts_by_seed(config: ExperimentConfig) -> tuple[str, ...]:
    """The `start` of teachers that begin with another file in every seed."""
    teachers = [config.teacher, *config.domain_teachers]
    starts = [teacher.start for teacher in teachers if teacher is not None and teacher.start is not None]
    return tuple(start for start in starts if _differs(start))


def content_of(paths: Iterable[str | Path]) -> str:
    """sha256 (hex) of each file, in order; of one that is not there, which others tell, nothing."""
    return " ".join(file_digest(path) for path in map(Path, paths) if path.is_file())


def _teacher(model: T, seeds: Sequence[int]) -> T:
    model = replace(model, architecture=architecture_by_content(model.architecture))
    if model.start is None:
        return model
    files = [of_seed(model.start, seed) for seed in seeds] if _differs(model.start) else [model.start]
    return replace(model, start=content_of(files))


def _student(model: StudentConfig) -> StudentConfig:
    architecture = architecture_by_content(model.architecture)
    return replace(model, architecture=architecture, channel_settings=_sets(model.channel_settings))


def _differs(start: str) -> bool:
    return of_seed(start, 0) != of_seed(start, 1)


def _sets(sets: Sets) -> Sets:
    return {
        name: {channel: _channel(channel, options) for channel, options in channels.items()}
        for name, channels in sets.items()
    }


def _channel(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Settings of a channel; its config says by `files()` which of them name files, if any do."""
    config = CHANNELS.get(name).config
    if not hasattr(config, "files"):
        return options
    found = copy.deepcopy(options)
    files: Mapping[tuple[str, ...], Sequence[Path]] = build(config, options).files()
    for (*parents, last), paths in files.items():
        inner = found
        for parent in parents:
            inner = inner[parent]
        inner[last] = content_of(paths)
    return found
