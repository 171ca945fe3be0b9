"""What a student's training is handed beside the examples: the teacher's log, its past, its snapshots."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distill.past import PastReader
from distill.protocols import Channel
from distill.stream import TeacherReader
from distill.teacher_log import TeacherLog
from experiments.pipeline.experiment import Experiment


def _no_snapshot(day: int) -> None:
    return None


@dataclass(frozen=True)
class Supply:
    """Of one training; nothing of it unless given.

    Attributes:
        log: of the teacher, joined to the examples that are trained on.
        served: also joined to those that are predicted.
        others: logs of the other teachers by name.
        past: the teacher's stored representations.
        snapshot: day to the teacher's snapshot that the schedule allows on it, None before the first.
    """

    log: TeacherReader | None = None
    served: bool = False
    others: Mapping[str, TeacherReader] = field(default_factory=dict)
    past: PastReader | None = None
    snapshot: Callable[[int], Path | None] = _no_snapshot


def open_supply(
    experiment: Experiment, seed: int, channels: Collection[Channel], tasks: tuple[str, ...]
) -> Supply:
    """Open what some channels need.

    Args:
        experiment: the experiment.
        seed: whose teacher is read.
        channels: of the student.
        tasks: of the student, which the teacher must have learnt.
    """
    needs = frozenset().union(*(channel.needs for channel in channels))
    inside = needs & {"representation", "served_representation"}
    log = teacher_log(experiment, seed, tasks, bool(inside)) if needs & {"logits"} | inside else None

    def snapshot(day: int) -> Path | None:
        through = experiment.schedule.snapshot_for(day)
        return None if through is None else experiment.snapshot(seed, through)

    return Supply(log, "served_representation" in needs, {}, None, snapshot)


def teacher_log(
    experiment: Experiment, seed: int, wanted: tuple[str, ...], representation: bool = False
) -> TeacherLog:
    """Open the log of a seed for the days that students read."""
    schedule = experiment.schedule
    return TeacherLog(
        experiment.log_folder(seed),
        experiment.data.schema.task_names,
        wanted,
        experiment.data.fingerprint,
        {day: schedule.snapshot_for(day) for day in schedule.student_days()},
        representation,
    )
