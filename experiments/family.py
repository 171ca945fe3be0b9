"""The family tree of an experiment: who teaches whom, through which channels, and what arrived. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.cells import DOMAIN_TEACHER, Cell
from distill.results import Row
from distill.transfer import MACRO
from experiments.recorded import NONE, STUDENT, TEACHER, RecordedRun
from experiments.summary import channel_order

_HIERARCHICAL = "hierarchical"


@dataclass(frozen=True)
class Link:
    """A channel set between a teacher and a student.

    Attributes:
        channel: the set's name.
        parts: channel to its settings.
        ratios: transfer rows of the set in NE: over all verticals, or of each where the student does not serve all.
    """

    channel: str
    parts: dict[str, dict[str, Any]]
    ratios: list[Row]

    @property
    def written(self) -> str:
        """Its channels with weights other than 1, such as `ah + adapter ×0.5`; empty where the name says it all."""
        parts = [
            name if settings.get("weight", 1.0) == 1.0 else f"{name} ×{settings['weight']:g}"
            for name, settings in self.parts.items()
        ]
        return "" if parts == [self.channel] else " + ".join(parts)


@dataclass(frozen=True)
class Student:
    """A student of the settings, below one teacher.

    Attributes:
        settings: its YAML.
        verticals: those on which this teacher teaches it.
        links: a channel set each, `none` apart.
        cost: `RecordedRun.cost` of `none` on the first vertical; None before it is timed.
    """

    settings: dict[str, Any]
    verticals: list[str]
    links: list[Link]
    cost: dict[str, float] | None


@dataclass(frozen=True)
class Teacher:
    """A teacher or domain teacher.

    Attributes:
        settings: its YAML.
        role: `teacher` or `domain_teacher`.
        link: how a domain teacher learns from the teacher; None for the teacher.
        domain_teachers: below it.
        students: that learn from it.
        cost: as of a student.
    """

    settings: dict[str, Any]
    role: str
    link: Link | None
    domain_teachers: list[Teacher]
    students: list[Student]
    cost: dict[str, float] | None


@dataclass(frozen=True)
class Family:
    """All models of the settings.

    Attributes:
        teacher: at the root; None when the experiment has none.
        orphans: students that nobody teaches: all of them, without a teacher.
    """

    teacher: Teacher | None
    orphans: list[Student]


def family(run: RecordedRun) -> Family:
    """The tree that the settings describe, with what the run has measured so far.

    Args:
        run: with its settings, scored or not.
    """
    config = run.config
    students = config.get("students") or []
    if not config.get("teacher"):
        return Family(None, [_student(run, settings, settings["verticals"]) for settings in students])
    below = [
        _teacher(run, settings, DOMAIN_TEACHER, [], _below(run, settings, students))
        for settings in config.get("domain_teachers") or []
    ]
    direct = [s for s in students if s["route"] != _HIERARCHICAL]
    own = [_student(run, settings, settings["verticals"]) for settings in direct]
    return Family(_teacher(run, config["teacher"], TEACHER, below, own), [])


def sets_of(run: RecordedRun, settings: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The channel sets by which a student learns, its own settings in place of the experiment's.

    Args:
        run: with its settings.
        settings: the student's.

    Returns:
        Set to channel to settings; `none` apart.
    """
    shared = run.config.get("channels") or {}
    names = [name for name in channel_order(settings["channels"] or shared) if name != NONE]
    return {name: settings["channel_settings"].get(name) or shared.get(name) or {} for name in names}


def _below(run: RecordedRun, teacher: dict[str, Any], students: Sequence[dict[str, Any]]) -> list[Student]:
    """Students of `route: hierarchical` on the surfaces of a domain teacher."""
    found = []
    for settings in students:
        common = [vertical for vertical in settings["verticals"] if vertical in teacher["verticals"]]
        if settings["route"] == _HIERARCHICAL and common:
            found.append(_student(run, settings, common))
    return found


def _student(run: RecordedRun, settings: dict[str, Any], verticals: list[str]) -> Student:
    links = [
        Link(name, parts, _ratios(run, settings, name, verticals))
        for name, parts in sets_of(run, settings).items()
    ]
    cells = [
        cell
        for cell in _cells(run, STUDENT, settings["name"])
        if cell.channel == NONE and cell.vertical == verticals[0]
    ]
    return Student(settings, verticals, links, _cost(run, cells))


def _teacher(
    run: RecordedRun, settings: dict[str, Any], role: str, below: list[Teacher], students: list[Student]
) -> Teacher:
    link = None
    if role == DOMAIN_TEACHER:
        shared = run.config.get("channels") or {}
        link = Link(settings["channel"], shared.get(settings["channel"]) or {}, [])
    cost = _cost(run, _cells(run, role, settings["name"]))
    return Teacher(settings, role, link, below, students, cost)


def _ratios(run: RecordedRun, settings: dict[str, Any], channel: str, verticals: list[str]) -> list[Row]:
    rows = [
        row
        for row in run.transfer
        if (row["model"], row["route"], row["channel"]) == (settings["name"], settings["route"], channel)
        and row["measure"] == "ne"
        and row["split"] == run.split
    ]
    everywhere = [row for row in rows if row["vertical"] == MACRO]
    whole = everywhere and verticals == settings["verticals"]
    return everywhere if whole else [row for row in rows if row["vertical"] in verticals]


def _cells(run: RecordedRun, role: str, model: str) -> list[Cell]:
    return [cell for cell in run.cells if (cell.role, cell.model) == (role, model)]


def _cost(run: RecordedRun, cells: Sequence[Cell]) -> dict[str, float] | None:
    return run.cost(cells[0].cell_id) if cells else None
