"""Chooses settings as PROTOCOL.md says: macro log-loss of the tune days, seeds 100-102, equal trials for every channel.

A tuning file names an experiment and the trials of its teacher and of each channel set, for all students at once or for
one of them; a trial is a mapping of `--set` keys to values. Students of all trials read the log of the experiment's own
teachers. Trials already in the table are not run again, and a channel set with fewer trials than another is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.cells import Cell
from distill.config import ExperimentConfig
from distill.errors import UserError, nearest
from distill.load_config import LoadedConfig, load_config
from distill.progress import Progress
from experiments.pipeline import domains
from experiments.pipeline.banks import Task
from experiments.pipeline.environment import git_commit
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.run import open_experiment, run_tasks, train_teachers, write_pasts
from experiments.studies.files import overrides
from experiments.studies.links import share
from experiments.studies.tables import append_row, read_table
from experiments.studies.trainings import SeedPredictions
from experiments.studies.trials import macro_logloss
from experiments.studies.tuning_file import OF, TEACHER, Tuning

COLUMNS = ("role", "channel", "trial", "settings", "macro_logloss", "seeds", "git_commit")
_SHARED = ("teacher", "teacher_log")
_DOMAINS = "domain_teachers"


def tune(tuning: Tuning, progress: Progress) -> list[dict[str, str]]:
    """Run what is missing in the table.

    Args:
        tuning: trials.
        progress: shown to the user.

    Returns:
        The table's rows, best first within each role and channel.
    """
    _refuse_unknown(tuning, _load(tuning, [], "base").config)
    for name, number, settings in _in_order(tuning):  # all, before the first costs any time
        _load(tuning, overrides(settings), f"{name}-{number}")
    table = Path(tuning.table)
    done = {(row["channel"], row["settings"]) for row in read_table(table, COLUMNS)}
    missing = [
        (name, number, settings)
        for name, number, settings in _in_order(tuning)
        if (name, _key(settings)) not in done
    ]
    _run(tuning, [trial for trial in missing if trial[0] == TEACHER], None, progress)
    of_students = [trial for trial in missing if trial[0] != TEACHER]
    if of_students:
        _run(tuning, of_students, _base(tuning, progress), progress)
    rows = read_table(table, COLUMNS)
    return sorted(rows, key=lambda row: (row["role"], row["channel"], float(row["macro_logloss"])))


_Trial = tuple[str, int, Mapping[str, Any]]


def _run(tuning: Tuning, trials: Sequence[_Trial], base: Experiment | None, progress: Progress) -> None:
    """Train the trials of teachers, or with `base` those of students who read its logs, and write their rows."""
    opened = [_open(tuning, f"{name}-{number}", settings, progress) for name, number, settings in trials]
    if base is not None:
        for experiment in opened:
            _share_teachers(base, experiment, progress)
    cells = [
        _cells(experiment, name) if base is not None else [_teacher_cell(experiment)]
        for experiment, (name, _, _) in zip(opened, trials, strict=True)
    ]
    both = list(zip(opened, cells, strict=True))
    tasks = [Task(experiment, cell, seed) for experiment, of in both for cell in of for seed in tuning.seeds]
    run_tasks(tasks, progress, "students" if base is not None else TEACHER)
    for (name, number, settings), (experiment, of) in zip(trials, both, strict=True):
        role = "student" if base is not None else TEACHER
        score = _macro_logloss(experiment, of)
        row = (role, name, number, _key(settings), f"{score:.6f}", len(tuning.seeds), git_commit())
        append_row(Path(tuning.table), COLUMNS, dict(zip(COLUMNS, row, strict=True)))


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def best_of(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The best trial of each channel set.

    Args:
        rows: of `tune`.
    """
    best: dict[str, Mapping[str, str]] = {}
    for row in rows:
        best.setdefault(row["channel"], row)
    return list(best.values())


def _in_order(tuning: Tuning) -> Iterator[_Trial]:
    for name in sorted(tuning.trials, key=lambda name: name != TEACHER):
        for number, settings in enumerate(tuning.trials[name]):
            yield name, number, settings


def _cells(experiment: Experiment, name: str) -> list[Cell]:
    """What a trial trains: the students of `<channel set>` or of `<student>/<channel set>`."""
    student, _, channel = name.rpartition(OF)
    of_channel = [cell for cell in experiment.student_cells if cell.channel == channel]
    return [cell for cell in of_channel if student in ("", cell.model)]


def _open(tuning: Tuning, name: str, settings: Mapping[str, Any], progress: Progress) -> Experiment:
    return open_experiment(_load(tuning, overrides(settings), name), final=False, progress=progress)


def _load(tuning: Tuning, arguments: Sequence[str], name: str) -> LoadedConfig:
    fixed = [f"output={Path(tuning.output) / name}", f"seeds={tuning.seeds}", "wandb.enabled=false"]
    loaded = load_config(tuning.experiment, [*arguments, *fixed])
    if domains.teach(loaded.config):
        return loaded
    return replace(loaded, config=replace(loaded.config, domain_teachers=[]))


def _refuse_unknown(tuning: Tuning, config: ExperimentConfig) -> None:
    asked = [(student.name, channel) for student in config.students for channel in student.channels]
    known = [TEACHER, *dict.fromkeys(channel for _, channel in asked), *(OF.join(pair) for pair in asked)]
    unknown = [name for name in tuning.trials if name not in known]
    if unknown:
        allowed = f"{', '.join(known)}. {nearest(unknown[0], known)}"
        raise UserError(f"trials: got '{unknown[0]}', allowed: {allowed}".rstrip())


def _base(tuning: Tuning, progress: Progress) -> Experiment:
    """The experiment's own teachers, a trial's if it is one of them, and their logs, which all students read."""
    loaded = _load(tuning, [], "base")
    for number, settings in enumerate(tuning.trials.get(TEACHER, [])):
        trial = _load(tuning, overrides(settings), f"{TEACHER}-{number}")
        if trial.config.teacher == loaded.config.teacher:
            loaded = trial
    experiment = open_experiment(loaded, final=False, progress=progress)
    _teacher_cell(experiment)
    train_teachers(experiment, progress)
    return experiment


def _share_teachers(base: Experiment, trial: Experiment, progress: Progress) -> None:
    """The base's teachers and logs as the trial's own, with the pasts that its channels ask for."""
    for name in (*_SHARED, _DOMAINS) if base.domain_cells else _SHARED:
        share(trial.folder / name, base.folder / name)
    write_pasts(trial, list(trial.logged_cells), progress)


def _teacher_cell(experiment: Experiment) -> Cell:
    cell = experiment.teacher_cell
    if cell is None:
        raise UserError("tuning: the experiment has no teacher")
    return cell


def _macro_logloss(experiment: Experiment, cells: Sequence[Cell]) -> float:
    seeds = tuple(experiment.config.seeds)
    sources = [SeedPredictions(cell, experiment.folder, seeds) for cell in cells]
    return macro_logloss(sources, experiment.data.schema.verticals)
