"""Chooses settings as PROTOCOL.md says: macro log-loss of the tune days, seeds 100-102, equal trials for every channel.

A tuning file names an experiment and the trials of its teacher and of each channel set, for all students at once or for
one of them; a trial is a mapping of `--set` keys to values. Students of all trials read the log of the experiment's own
teachers. A trial that the table has with these settings, data and seeds is not run again; its other rows are neither
ranked nor removed. A channel set with fewer trials than another is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.cells import Cell
from distill.config import ExperimentConfig
from distill.errors import UserError, nearest
from distill.load_config import LoadedConfig
from distill.progress import Progress
from distill.sources.fingerprint import fingerprint_of
from experiments.pipeline import domains
from experiments.pipeline.banks import Task
from experiments.pipeline.environment import git_commit
from experiments.pipeline.experiment import Experiment, Planned
from experiments.pipeline.rehearsal import rehearse_all
from experiments.pipeline.run import open_experiment, run_tasks, train_teachers, write_pasts
from experiments.pipeline.status import RunStatus
from experiments.quantity import counted
from experiments.studies.files import hash_of, load_all, overrides
from experiments.studies.links import share
from experiments.studies.tables import append_row, read_table, renew_table
from experiments.studies.trainings import SeedPredictions
from experiments.studies.trials import macro_logloss
from experiments.studies.tuning_file import OF, TEACHER, Tuning

COLUMNS = ("role", "channel", "trial", "settings", "macro_logloss", "seeds", "config_hash", "git_commit")
BEFORE = tuple(name for name in COLUMNS if name != "config_hash")
"""Columns of tables from before they said of which settings a row is; `seeds` counts them there."""
STUDENT = "student"
_SHARED = ("teacher", "teacher_log")
_DOMAINS = "domain_teachers"
_BASE = "experiment"
_FREE, _CHECKPOINT = ("data.root", "data.cache", "workers", "bank"), "checkpoint."
"""`--set` keys by which no result changes."""

Key = tuple[str, str, str, str]
"""Name of the trial, its settings, seeds, hash of what decides about it."""


@dataclass(frozen=True)
class _Trial:
    """One trial.

    Attributes:
        name: `teacher`, `<channel set>` or `<student>/<channel set>`.
        number: among those of the same name.
        settings: `--set` keys and values.
    """

    name: str
    number: int
    settings: Mapping[str, Any]

    @property
    def place(self) -> str:
        """In the tuning file."""
        return f"trials.{self.name}[{self.number}]"

    @property
    def folder(self) -> str:
        """Its run folder, below the study's."""
        return f"{self.name}-{self.number}"


def tune(tuning: Tuning, path: Path, settings: Sequence[str], progress: Progress) -> list[dict[str, str]]:
    """Run what is missing in the table.

    Args:
        tuning: trials.
        path: the file, for messages.
        settings: `--set` arguments of the experiment, as on the command line.
        progress: shown to the user.

    Returns:
        The table's rows of these trials as they are now, best first within each role and channel.

    Raises:
        UserError: settings or data that do not fit.
        KeyboardInterrupt: after the output folder was marked as interrupted.
    """
    _refuse_deciding(settings)
    trials = list(_in_order(tuning))
    loaded = _load(tuning, path, settings, trials)  # all, before the first costs any time
    _refuse_misfit(tuning, loaded[_BASE].config)
    keys = {trial.place: _key(trial, Planned(loaded[trial.place].config)) for trial in trials}
    done = {_key_of(row) for row in read_rows(tuning)}
    missing = [trial for trial in trials if keys[trial.place] not in done]
    if missing:
        renew_table(Path(tuning.table), COLUMNS, BEFORE)
        with RunStatus(Path(tuning.output), hash_of(loaded), None) as step:
            _run_all(tuning, path, missing, loaded, step, progress)
    rows = [row for row in read_rows(tuning) if _key_of(row) in keys.values()]
    return sorted(rows, key=lambda row: (row["role"], row["channel"], float(row["macro_logloss"])))


def _run_all(
    tuning: Tuning,
    path: Path,
    missing: Sequence[_Trial],
    loaded: Mapping[str, LoadedConfig],
    step: Callable[[str], None],
    progress: Progress,
) -> None:
    """Build everything that trials train, then train it: teachers, then students, who read the logs of the base's."""
    step("data")
    opened = {trial.place: open_experiment(loaded[trial.place], False, progress) for trial in missing}
    base = open_experiment(_base(tuning, loaded), False, progress)
    of_teacher = [trial for trial in missing if trial.name == TEACHER]
    of_students = [trial for trial in missing if trial.name != TEACHER]
    models = {trial.place: _cells(opened[trial.place], trial.name) for trial in missing}
    step("rehearsal")
    first = [(base, cell) for cell in base.logged_cells] if of_students else []
    of_trials = {place: [(opened[place], cell) for cell in cells] for place, cells in models.items()}
    rehearse_all({f"{path}: {place}": of for place, of in {_BASE: first, **of_trials}.items()})
    step(TEACHER)
    _run(tuning, of_teacher, opened, progress)
    if of_students:
        train_teachers(base, progress)
        for trial in of_students:
            _share_teachers(base, opened[trial.place], progress)
        step(STUDENT)
        _run(tuning, of_students, opened, progress)


def _run(
    tuning: Tuning, trials: Sequence[_Trial], opened: Mapping[str, Experiment], progress: Progress
) -> None:
    """Train the trials of teachers, or those of students, and write their rows."""
    cells = {trial.place: _cells(opened[trial.place], trial.name) for trial in trials}
    tasks = [
        Task(opened[place], cell, seed) for place, of in cells.items() for cell in of for seed in tuning.seeds
    ]
    run_tasks(tasks, progress, "students" if trials and trials[0].name != TEACHER else TEACHER)
    for trial in trials:
        score = _macro_logloss(opened[trial.place], cells[trial.place])
        _append(tuning, trial, opened[trial.place], score)


def _append(tuning: Tuning, trial: _Trial, planned: Planned, score: float) -> None:
    role = TEACHER if trial.name == TEACHER else STUDENT
    name, settings, seeds, digest = _key(trial, planned)
    row = (role, name, trial.number, settings, f"{score:.6f}", seeds, digest, git_commit())
    append_row(Path(tuning.table), COLUMNS, dict(zip(COLUMNS, row, strict=True)))


def _key(trial: _Trial, planned: Planned) -> Key:
    """What makes one row of the table: the trial, its seeds, and what decides about it, data included."""
    seeds = planned.config.seeds
    deciding = [planned.settings_hash(cell, seed) for cell in _cells(planned, trial.name) for seed in seeds]
    digest = hashlib.sha256(json.dumps([fingerprint_of(planned.config.data), *deciding]).encode()).hexdigest()
    return trial.name, json.dumps(trial.settings, sort_keys=True), " ".join(map(str, seeds)), digest


def _key_of(row: Mapping[str, str]) -> Key:
    return row["channel"], row["settings"], row["seeds"], row["config_hash"]


def read_rows(tuning: Tuning) -> list[dict[str, str]]:
    """All rows of the table; those from before they said of which settings they are, with an empty `config_hash`.

    Raises:
        UserError: the file has other columns.
    """
    return read_table(Path(tuning.table), COLUMNS, BEFORE)


def left_aside(tuning: Tuning, rows: Sequence[Mapping[str, str]]) -> str:
    """What to say of rows of the table that are not ranked; empty where there are none.

    Args:
        tuning: trials.
        rows: of `tune`.
    """
    others = [row for row in read_rows(tuning) if row not in rows]
    silent = sum(not row["config_hash"] for row in others)
    said = f"; {silent} from before rows said of which they are" if silent else ""
    left = f"Left aside: {counted(len(others), 'row')} of other trials, settings, data or seeds{said}."
    return left if others else ""


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
            yield _Trial(name, number, settings)


def _cells(experiment: Planned, name: str) -> list[Cell]:
    """What a trial trains: the teacher, or the students of `<channel set>` or of `<student>/<channel set>`."""
    if name == TEACHER:
        assert experiment.teacher_cell is not None
        return [experiment.teacher_cell]
    student, _, channel = name.rpartition(OF)
    of_channel = [cell for cell in experiment.student_cells if cell.channel == channel]
    return [cell for cell in of_channel if student in ("", cell.model)]


def _load(
    tuning: Tuning, path: Path, settings: Sequence[str], trials: Sequence[_Trial]
) -> dict[str, LoadedConfig]:
    """The experiment itself, under _BASE, and as each trial has it, under the trial's place."""
    arguments = {_BASE: _fixed(tuning, "base")}
    arguments |= {
        trial.place: [*overrides(trial.settings), *_fixed(tuning, trial.folder)] for trial in trials
    }
    loaded = load_all(tuning, path, arguments, settings)
    return {place: _only_who_teaches(of) for place, of in loaded.items()}


def _fixed(tuning: Tuning, folder: str) -> list[str]:
    return [f"output={Path(tuning.output) / folder}", f"seeds={tuning.seeds}", "wandb.enabled=false"]


def _only_who_teaches(loaded: LoadedConfig) -> LoadedConfig:
    if domains.teach(loaded.config):
        return loaded
    return replace(loaded, config=replace(loaded.config, domain_teachers=[]))


def _refuse_deciding(settings: Sequence[str]) -> None:
    """What changes a result is written where it can be read again, in the experiment or in every trial."""
    for text in settings:
        key = text.partition("=")[0]
        if key not in _FREE and not key.startswith(_CHECKPOINT):
            raise UserError(
                f"--set {text}: got the key {key}, allowed for `distill study tune`: {', '.join(_FREE)} and those of "
                f"{_CHECKPOINT}*, which change no result. Write what changes some into the experiment, or every trial."
            )


def _refuse_misfit(tuning: Tuning, config: ExperimentConfig) -> None:
    asked = [(student.name, channel) for student in config.students for channel in student.channels]
    known = [TEACHER, *dict.fromkeys(channel for _, channel in asked), *(OF.join(pair) for pair in asked)]
    if config.teacher is None:
        raise UserError(f"{tuning.experiment}: teacher: got null, allowed in a study: a teacher")
    unknown = [name for name in tuning.trials if name not in known]
    if unknown:
        allowed = f"{', '.join(known)}. {nearest(unknown[0], known)}"
        raise UserError(f"trials: got '{unknown[0]}', allowed: {allowed}".rstrip())


def _base(tuning: Tuning, loaded: Mapping[str, LoadedConfig]) -> LoadedConfig:
    """Of the teachers whose logs all students read: the experiment's own, in a trial's folder if it is one of them."""
    base = loaded[_BASE]
    for trial in _in_order(tuning):
        if trial.name == TEACHER and loaded[trial.place].config.teacher == base.config.teacher:
            base = loaded[trial.place]
    return base


def _share_teachers(base: Experiment, trial: Experiment, progress: Progress) -> None:
    """The base's teachers and logs as the trial's own, with the pasts that its channels ask for."""
    for name in (*_SHARED, _DOMAINS) if base.domain_cells else _SHARED:
        share(trial.folder / name, base.folder / name)
    write_pasts(trial, list(trial.logged_cells), progress)


def _macro_logloss(experiment: Experiment, cells: Sequence[Cell]) -> float:
    seeds = tuple(experiment.config.seeds)
    sources = [SeedPredictions(cell, experiment.folder, seeds) for cell in cells]
    return macro_logloss(sources, experiment.data.schema.verticals)
