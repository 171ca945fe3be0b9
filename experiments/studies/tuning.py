"""Chooses settings as PROTOCOL.md says: macro log-loss of the tune days, seeds 100-102, equal trials for every channel.

A tuning file names an experiment and the trials of its teacher and of each channel set; a trial is a mapping of
`--set` keys to values. Students of all trials read the log of the experiment's own teacher. Trials already in the
table are not run again, and a channel set with fewer trials than another is refused.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from distill.cells import ALL
from distill.config import ExperimentConfig
from distill.errors import UserError
from distill.load_config import LoadedConfig, load_config
from distill.predictions import prediction_path, read_predictions
from distill.progress import Progress
from distill.scores import logloss
from experiments.pipeline import jobs
from experiments.pipeline.environment import git_commit
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.run import open_experiment, run_cells

COLUMNS = ("role", "channel", "trial", "settings", "macro_logloss", "seeds", "git_commit")
TEACHER = "teacher"


@dataclass(frozen=True)
class Tuning:
    """A tuning file.

    Attributes:
        path: the file.
        experiment: experiment file, absolute.
        output: folder for the trials' runs.
        table: CSV of results.
        seeds: seeds of every trial.
        trials: `teacher` or a channel set's name -> trials, each a mapping of `--set` keys to values.
    """

    path: Path
    experiment: Path
    output: Path
    table: Path
    seeds: list[int]
    trials: dict[str, list[dict[str, Any]]]


def read_tuning(path: Path) -> Tuning:
    """Read a tuning file.

    Raises:
        UserError: no such file, unknown or missing keys, unequal numbers of trials.
    """
    if not path.is_file():
        raise UserError(f"tuning: no file {path}")
    content = yaml.safe_load(path.read_text())
    keys = {"experiment", "output", "table", "seeds", "trials"}
    if not isinstance(content, dict) or set(content) != keys:
        got = sorted(content) if isinstance(content, dict) else content
        raise UserError(f"{path}: got {got}, allowed: exactly the keys {', '.join(sorted(keys))}")
    trials = {name: [dict(trial or {}) for trial in given] for name, given in content["trials"].items()}
    counts = {name: len(given) for name, given in trials.items() if name != TEACHER}
    if len(set(counts.values())) > 1:
        raise UserError(f"{path}: trials: got {counts}, allowed: the same number for every channel set")
    folder = path.parent
    return Tuning(
        path,
        (folder / content["experiment"]).resolve(),
        Path(content["output"]),
        Path(content["table"]),
        list(content["seeds"]),
        trials,
    )


def tune(tuning: Tuning, progress: Progress) -> list[dict[str, str]]:
    """Run what is missing in the table.

    Args:
        tuning: trials.
        progress: shown to the user.

    Returns:
        The table's rows, best first within each role and channel.
    """
    done = {(row["channel"], row["settings"]) for row in _read_table(tuning.table)}
    base = None
    for channel, number, settings in _in_order(tuning):
        key = json.dumps(settings, sort_keys=True)
        if (channel, key) in done:
            continue
        if channel == TEACHER:
            experiment = _open(tuning, f"teacher-{number}", settings, progress)
            run_cells(experiment, [_teacher_cell(experiment)], progress)
            score = _macro_logloss(experiment, [_teacher_cell(experiment)])
        else:
            base = base or _base(tuning, progress)
            experiment = _open(tuning, f"{channel}-{number}", settings, progress)
            _link_log(base, experiment)
            cells = [cell for cell in experiment.student_cells if cell.channel == channel]
            run_cells(experiment, cells, progress)
            score = _macro_logloss(experiment, cells)
        role = TEACHER if channel == TEACHER else "student"
        row = (role, channel, number, key, f"{score:.6f}", len(tuning.seeds), git_commit())
        _append(tuning.table, dict(zip(COLUMNS, map(str, row), strict=True)))
    rows = _read_table(tuning.table)
    return sorted(rows, key=lambda row: (row["role"], row["channel"], float(row["macro_logloss"])))


def _in_order(tuning: Tuning) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for channel in sorted(tuning.trials, key=lambda name: name != TEACHER):
        for number, settings in enumerate(tuning.trials[channel]):
            yield channel, number, settings


def _open(tuning: Tuning, name: str, settings: Mapping[str, Any], progress: Progress) -> Experiment:
    return open_experiment(_load(tuning, _overrides(settings), name), final=False, progress=progress)


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    # JSON is YAML on one line.
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _load(tuning: Tuning, overrides: Sequence[str], name: str) -> LoadedConfig:
    fixed = [f"output={tuning.output / name}", f"seeds={tuning.seeds}", "wandb.enabled=false"]
    return load_config(tuning.experiment, [*overrides, *fixed])


def _base(tuning: Tuning, progress: Progress) -> Experiment:
    """The experiment's own teacher, a trial's if it is one of them, and its log, which all students read."""
    loaded = _load(tuning, [], "base")
    for number, settings in enumerate(tuning.trials.get(TEACHER, [])):
        trial = _load(tuning, _overrides(settings), f"{TEACHER}-{number}")
        if trial.config.teacher == loaded.config.teacher:
            loaded = trial
    experiment = open_experiment(loaded, final=False, progress=progress)
    run_cells(experiment, [_teacher_cell(experiment)], progress)
    for seed in tuning.seeds:
        jobs.write_log(experiment, seed, progress)
    return experiment


def _link_log(base: Experiment, trial: Experiment) -> None:
    link = trial.folder / "teacher_log"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to((base.folder / "teacher_log").resolve(), target_is_directory=True)


def _teacher_cell(experiment: Experiment) -> Any:
    cell = experiment.teacher_cell
    if cell is None:
        raise UserError("tuning: the experiment has no teacher")
    return cell


def _macro_logloss(experiment: Experiment, cells: Sequence[Any]) -> float:
    """Mean over verticals, tasks and seeds of the tune days' log-loss."""
    config: ExperimentConfig = experiment.config
    losses = []
    for cell in cells:
        verticals = experiment.data.schema.verticals if cell.vertical == ALL else [cell.vertical]
        for seed in config.seeds:
            predictions = read_predictions(prediction_path(experiment.folder, cell, seed), ["tune"])
            for vertical in verticals:
                rows = predictions.select("tune", [vertical])
                for task in rows.tasks:
                    known = rows.labels[task] >= 0
                    losses.append(logloss(rows.logits[task][known], rows.labels[task][known]))
    return fmean(losses)


def _read_table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(path: Path, row: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
