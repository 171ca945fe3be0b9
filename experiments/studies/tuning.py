"""Chooses settings as PROTOCOL.md says: macro log-loss of the tune days, seeds 100-102, equal trials for every channel.

A tuning file names an experiment and the trials of its teacher and of each channel set; a trial is a mapping of
`--set` keys to values. Students of all trials read the log of the experiment's own teacher. Trials already in the
table are not run again, and a channel set with fewer trials than another is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.cells import Cell
from distill.errors import UserError
from distill.findings import Findings
from distill.load_config import LoadedConfig, load_config
from distill.progress import Progress
from experiments.pipeline.environment import git_commit
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.logs import write_log
from experiments.pipeline.run import open_experiment, run_cells
from experiments.studies.files import StudyFile, overrides, read_study, unequal
from experiments.studies.tables import append_row, read_table
from experiments.studies.trainings import SeedPredictions
from experiments.studies.trials import macro_logloss

COLUMNS = ("role", "channel", "trial", "settings", "macro_logloss", "seeds", "git_commit")
TEACHER = "teacher"


@dataclass
class Tuning(StudyFile):
    """A tuning file.

    Attributes:
        trials: `teacher` or a channel set's name to trials, each a mapping of `--set` keys to values.
    """

    trials: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def read_tuning(path: Path) -> Tuning:
    """Read a tuning file.

    Raises:
        ConfigErrors: no such file, unknown or missing keys, unequal numbers of trials.
    """
    return read_study(path, Tuning, _check)


def _check(tuning: Tuning, findings: Findings) -> None:
    if not tuning.trials:
        findings.add(("trials",), "no trials", "trials of the teacher, of channel sets, or of both")
    counts = unequal({name: given for name, given in tuning.trials.items() if name != TEACHER})
    if counts:
        findings.add(("trials",), counts, "the same number for every channel set")


def tune(tuning: Tuning, progress: Progress) -> list[dict[str, str]]:
    """Run what is missing in the table.

    Args:
        tuning: trials.
        progress: shown to the user.

    Returns:
        The table's rows, best first within each role and channel.
    """
    table = Path(tuning.table)
    done = {(row["channel"], row["settings"]) for row in read_table(table, COLUMNS)}
    base = None
    for channel, number, settings in _in_order(tuning):
        key = json.dumps(settings, sort_keys=True)
        if (channel, key) in done:
            continue
        if channel == TEACHER:
            experiment = _open(tuning, f"teacher-{number}", settings, progress)
            cells = [_teacher_cell(experiment)]
        else:
            base = base or _base(tuning, progress)
            experiment = _open(tuning, f"{channel}-{number}", settings, progress)
            _link_log(base, experiment)
            cells = [cell for cell in experiment.student_cells if cell.channel == channel]
        run_cells(experiment, cells, progress)
        role = TEACHER if channel == TEACHER else "student"
        score = _macro_logloss(experiment, cells)
        row = (role, channel, number, key, f"{score:.6f}", len(tuning.seeds), git_commit())
        append_row(table, COLUMNS, dict(zip(COLUMNS, row, strict=True)))
    rows = read_table(table, COLUMNS)
    return sorted(rows, key=lambda row: (row["role"], row["channel"], float(row["macro_logloss"])))


def _in_order(tuning: Tuning) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for channel in sorted(tuning.trials, key=lambda name: name != TEACHER):
        for number, settings in enumerate(tuning.trials[channel]):
            yield channel, number, settings


def _open(tuning: Tuning, name: str, settings: Mapping[str, Any], progress: Progress) -> Experiment:
    return open_experiment(_load(tuning, overrides(settings), name), final=False, progress=progress)


def _load(tuning: Tuning, arguments: Sequence[str], name: str) -> LoadedConfig:
    fixed = [f"output={Path(tuning.output) / name}", f"seeds={tuning.seeds}", "wandb.enabled=false"]
    return load_config(tuning.experiment, [*arguments, *fixed])


def _base(tuning: Tuning, progress: Progress) -> Experiment:
    """The experiment's own teacher, a trial's if it is one of them, and its log, which all students read."""
    loaded = _load(tuning, [], "base")
    for number, settings in enumerate(tuning.trials.get(TEACHER, [])):
        trial = _load(tuning, overrides(settings), f"{TEACHER}-{number}")
        if trial.config.teacher == loaded.config.teacher:
            loaded = trial
    experiment = open_experiment(loaded, final=False, progress=progress)
    run_cells(experiment, [_teacher_cell(experiment)], progress)
    for seed in tuning.seeds:
        write_log(experiment, _teacher_cell(experiment), seed, progress)
    return experiment


def _link_log(base: Experiment, trial: Experiment) -> None:
    link = trial.folder / "teacher_log"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to((base.folder / "teacher_log").resolve(), target_is_directory=True)


def _teacher_cell(experiment: Experiment) -> Cell:
    cell = experiment.teacher_cell
    if cell is None:
        raise UserError("tuning: the experiment has no teacher")
    return cell


def _macro_logloss(experiment: Experiment, cells: Sequence[Cell]) -> float:
    seeds = tuple(experiment.config.seeds)
    sources = [SeedPredictions(cell, experiment.folder, seeds) for cell in cells]
    return macro_logloss(sources, experiment.data.schema.verticals)
