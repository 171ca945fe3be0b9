"""What a dashboard shows: teacher, students, surfaces and tasks, as the settings name them. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.cells import ALL, DOMAIN_TEACHER, POOLED
from distill.errors import UserError
from distill.load_config import LoadedConfig
from experiments import tracking_keys as keys
from experiments.recorded import NONE, TEACHER, read_run
from experiments.tracking import RUNS


@dataclass(frozen=True)
class Student:
    """One student of the settings.

    Attributes:
        name: its model's name.
        verticals: it serves.
        tasks: it predicts.
        sets: channel sets that it is trained with, `none` apart.
    """

    name: str
    verticals: Sequence[str]
    tasks: Sequence[str]
    sets: Sequence[str]


@dataclass(frozen=True)
class Shown:
    """All that a dashboard is built from.

    Attributes:
        experiment: its name, which is the group of its runs.
        project: of W&B, by the settings.
        split: whose scores are shown: `test` for a run that has read the test days, else `tune`.
        verticals: of the data set that are scored.
        teacher: name; None without one.
        teacher_run: id of its W&B run, to pin; None before it exists.
        teacher_tasks: it predicts; none without one.
        domain_teachers: their names.
        students: in the order of the settings.
    """

    experiment: str
    project: str
    split: str
    verticals: Sequence[str]
    teacher: str | None
    teacher_run: str | None
    teacher_tasks: Sequence[str]
    domain_teachers: Sequence[str]
    students: Sequence[Student]

    @property
    def places(self) -> list[tuple[str, str]]:
        """(vertical, task) that some student predicts, each once."""
        return unique((v, task) for s in self.students for v in s.verticals for task in s.tasks)

    @property
    def teacher_tags(self) -> list[str]:
        """Of the runs of all who teach."""
        first = [] if self.teacher is None else [keys.tag(TEACHER, self.teacher)]
        return first + [keys.tag(DOMAIN_TEACHER, name) for name in self.domain_teachers]

    @property
    def runs(self) -> int:
        """W&B runs of the experiment, its floor included."""
        students = sum(len(s.verticals) * (1 + len(s.sets)) for s in self.students)
        return students + len(self.teacher_tags) + 1


def shown_by_run(folder: Path) -> Shown:
    """What a run's dashboard shows.

    Raises:
        UserError: the run is not scored, or has not written its settings.
    """
    run = read_run(folder)
    if not run.rows or not run.config:
        raise UserError(
            f"{folder}: got a run that is not scored, allowed: a scored run, or the experiment's YAML file."
        )
    tasks = unique(row["task"] for row in run.rows)
    verticals = unique(row["vertical"] for row in run.rows if row["vertical"] != POOLED)
    return _shown(run.config, verticals, tasks, run.split, folder)


def shown_by_file(loaded: LoadedConfig, settings: dict[str, Any]) -> Shown:
    """What an experiment's dashboard shows, whether or not it has been run.

    Args:
        loaded: the experiment.
        settings: the same, resolved, as plain values.

    Raises:
        UserError: the source cannot name the tasks before the data are prepared.
    """
    if loaded.schema is None:
        raise UserError(
            f"{loaded.path}: got a data set whose tasks are not known yet, allowed: one that can be read. "
            "Run the experiment, then name its run folder."
        )
    schema = loaded.schema
    return _shown(settings, schema.verticals, schema.task_names, "tune", Path(loaded.config.output))


def _shown(
    settings: dict[str, Any], verticals: Sequence[str], tasks: Sequence[str], split: str, folder: Path
) -> Shown:
    teacher = settings.get("teacher") or {}
    name = teacher.get("name")
    return Shown(
        experiment=settings["name"],
        project=settings["wandb"]["project"],
        split=split,
        verticals=verticals,
        teacher=name,
        teacher_run=None if name is None else _run_id(folder, keys.run_name(name, ALL, NONE)),
        teacher_tasks=[] if name is None else teacher["tasks"] or tasks,
        domain_teachers=[domain["name"] for domain in settings.get("domain_teachers") or []],
        students=[
            _student(student, settings.get("channels") or {}, tasks) for student in settings["students"]
        ],
    )


def _student(settings: dict[str, Any], sets: Iterable[str], tasks: Sequence[str]) -> Student:
    channels = [name for name in settings["channels"] or sets if name != NONE]
    return Student(settings["name"], settings["verticals"], settings["tasks"] or tasks, channels)


def _run_id(folder: Path, name: str) -> str | None:
    """Id of the W&B run of that name in a run folder; None where there is none yet."""
    path = folder / RUNS
    runs = json.loads(path.read_text()).values() if path.is_file() else []
    return next((run["id"] for run in runs if run["name"] == name), None)


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))
