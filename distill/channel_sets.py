"""The channels of a set as one student learns by them. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.config import ExperimentConfig, StudentConfig, TeacherConfig


def channel_set(
    config: ExperimentConfig, model: StudentConfig | TeacherConfig, name: str
) -> Mapping[str, dict[str, Any]]:
    """Channel to its settings: the student's own ones of that set where it has any, else the experiment's.

    Args:
        config: the experiment, checked: a student's own settings of a set are complete then.
        model: a student, or a domain teacher, which has none of its own.
        name: of the set; `none` and an unknown one hold no channel.
    """
    shared = config.channels.get(name, {})
    return model.channel_settings.get(name, shared) if isinstance(model, StudentConfig) else shared
