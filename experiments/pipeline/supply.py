"""What a student's training is handed beside the examples: the teacher's log, its past, its snapshots."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distill.cells import Cell
from distill.errors import UserError
from distill.other_surfaces import other_surfaces
from distill.past import PastReader, PastRequest
from distill.past_store import PastStore
from distill.protocols import Channel
from distill.stream import TeacherReader
from distill.teacher_log import TeacherLog
from experiments.pipeline.experiment import Experiment


def _no_snapshot(day: int) -> None:
    return None


@dataclass(frozen=True)
class OtherRows:
    """Rows of other surfaces that a student's channels learn from (`distill.other_surfaces`).

    Attributes:
        domains: their surfaces.
        share: of their rows.
        labels: True where they carry labels.
    """

    domains: tuple[str, ...]
    share: float
    labels: bool


@dataclass(frozen=True)
class Supply:
    """Of one training; nothing of it unless given.

    Attributes:
        log: of the teacher, joined to the examples that are trained on.
        served: also joined to those that are predicted.
        others: logs of the other teachers by name.
        past: the teacher's stored representations.
        snapshot: day to the teacher's snapshot that the schedule allows on it, None before the first.
        other_rows: rows of other surfaces.
    """

    log: TeacherReader | None = None
    served: bool = False
    others: Mapping[str, TeacherReader] = field(default_factory=dict)
    past: PastReader | None = None
    snapshot: Callable[[int], Path | None] = _no_snapshot
    other_rows: OtherRows | None = None


def open_supply(
    experiment: Experiment, cell: Cell, seed: int, channels: Collection[Channel], tasks: tuple[str, ...]
) -> Supply:
    """Open what some channels need.

    Args:
        experiment: the experiment.
        cell: the student, or domain teacher, that learns by them.
        seed: whose teachers are read.
        channels: of the student.
        tasks: of the student, which its teacher must have learnt.
    """
    needs = frozenset[str]().union(*(channel.needs for channel in channels))
    request = _request(channels)
    if not needs and request is None:
        return Supply()
    teacher = experiment.teacher_of(cell)
    inside = bool(needs & {"representation", "served_representation"})
    log = teacher_log(experiment, teacher, seed, tasks, inside) if inside or "logits" in needs else None
    past = None
    if request is not None:
        past = PastStore(past_folder(experiment, teacher, seed, request), experiment.data, request)
    others = experiment.other_teachers_of(cell) if "others" in needs else []

    def snapshot(day: int) -> Path | None:
        through = experiment.schedule.snapshot_for(day)
        return None if through is None else experiment.snapshot(teacher, seed, through)

    return Supply(
        log,
        "served_representation" in needs,
        {other.model: teacher_log(experiment, other, seed, tasks) for other in others},
        past,
        snapshot,
        other_rows(experiment, cell, [teacher, *others], channels),
    )


def check_supply(experiment: Experiment, cell: Cell, channels: Collection[Channel]) -> None:
    """What `open_supply` refuses whatever the logs hold.

    Args:
        experiment, cell, channels: see `open_supply`.

    Raises:
        UserError: see `other_rows` and `_request`.
    """
    _request(channels)
    if other_surfaces(channels):
        others = any("others" in channel.needs for channel in channels)
        teachers = [experiment.teacher_of(cell), *(experiment.other_teachers_of(cell) if others else [])]
        other_rows(experiment, cell, teachers, channels)


def other_rows(
    experiment: Experiment, cell: Cell, teachers: Collection[Cell], channels: Collection[Channel]
) -> OtherRows | None:
    """The rows of other surfaces that some channels ask for; None when they ask for none.

    Args:
        experiment: the experiment.
        cell: the student.
        teachers: that it learns by, all of which must know the rows.
        channels: of the student.

    Raises:
        UserError: there is no other surface that all of them know; two channels ask for different shares.
    """
    share = other_surfaces(channels)
    if not share:
        return None
    domains = set(experiment.data.schema.domains) - set(cell.domains or experiment.data.schema.domains)
    for teacher in teachers:
        domains &= set(teacher.domains or domains)
    if not domains:
        names = ", ".join(teacher.model for teacher in teachers)
        raise UserError(
            f"other_surfaces: got {share:g} for student '{cell.model}' on {cell.vertical}, allowed: 0, because its "
            f"teacher ({names}) knows no other surface"
        )
    ordered = tuple(name for name in experiment.data.schema.domains if name in domains)
    return OtherRows(ordered, share, any(channel.other_labels for channel in channels))


def _request(channels: Collection[Channel]) -> PastRequest | None:
    """What channels read of the teacher's past; None when they read nothing of it.

    Raises:
        UserError: two channels of one student ask for different ones.
    """
    requests = {channel.past for channel in channels if channel.past is not None}
    if len(requests) > 1:
        raise UserError(
            f"channels: got {len(requests)} that read the teacher's past differently, allowed: one a student. Give "
            "them the same history_length, group, alignment, codec and half_life_days."
        )
    return next(iter(requests), None)


def past_folder(experiment: Experiment, teacher: Cell, seed: int, request: PastRequest) -> Path:
    """Where representations lie that are stored as a request says; how many are read of them does not matter."""
    name = f"past-{request.alignment}-{request.codec}"
    if request.item:
        name += f"-item-{request.half_life_days:g}"
    if request.user_events:
        name += "-user"
    return experiment.log_folder(teacher, seed) / name


def teacher_log(
    experiment: Experiment, teacher: Cell, seed: int, wanted: tuple[str, ...], representation: bool = False
) -> TeacherLog:
    """Open the log of a teacher of a seed for all days of a run; it says nothing on those that are not logged."""
    schedule = experiment.schedule
    return TeacherLog(
        experiment.log_folder(teacher, seed),
        experiment.data.schema.task_names,
        wanted,
        experiment.data.fingerprint,
        {day: schedule.told_through(day) for day in range(1, schedule.last_day + 1)},
        representation,
    )
