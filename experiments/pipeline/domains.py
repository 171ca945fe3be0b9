"""Whether domain teachers are needed: trained where nobody learns from them, they cost as much as elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from distill.config import ExperimentConfig
from distill.registry import CHANNELS


def teach(config: ExperimentConfig) -> bool:
    """True when one of the students learns from the experiment's domain teachers."""
    hierarchical = any(student.route == "hierarchical" for student in config.students)
    return hierarchical or any(weigh_others(config, student.channels) for student in config.students)


def weigh_others(config: ExperimentConfig, channel_sets: Iterable[str]) -> bool:
    """True when one of some channel sets weighs several teachers, so that direct students too need domain teachers."""
    channels = {channel for name in channel_sets for channel in config.channels.get(name, {})}
    return any("others" in CHANNELS.get(channel).needs for channel in channels)
