"""Weights & Biases: one run per cell, written from the run folder when the cell is scored. Free of torch.

Workers train seeds side by side in processes of their own and write predictions; the tracker turns what
they wrote into curves. Ids are fixed and saved (`wandb_runs.json`) before the training starts, so that a job
that is repeated after an interruption continues its runs: days that a run has are not sent again.

Offline unless WANDB_MODE says otherwise; `wandb leet <output>/wandb` shows the runs in the terminal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

import yaml

from distill.cells import DOMAIN_TEACHER, Cell
from distill.config import ExperimentConfig
from distill.errors import UserError
from distill.files import atomic_path
from distill.predictions import CellPredictions
from distill.results import SCORE_COLUMNS, Row
from experiments.curves import MEASURES, DayScore, band, day_scores
from experiments.pipeline.environment import git_commit
from experiments.recorded import STUDENT, TEACHER, RecordedRun, read_run

RUNS = "wandb_runs.json"
"""cell_id to the id, name and group of its run, the last day it holds and the digest of its scores."""

Mode = Literal["offline", "online"]
_MODES: dict[str, Mode] = {"offline": "offline", "online": "online"}
_ID_LENGTH = 16
_TAG_LENGTH = 64
_TABLE_COLUMNS = ("seed", "split", "vertical", "task", *SCORE_COLUMNS)


class Tracker(Protocol):
    """Where runs are recorded."""

    def start(self, cell: Cell) -> None:
        """Say that a cell is about to be trained; may be said again."""

    def finish(self, cell: Cell) -> None:
        """Record a cell that results.json has scores of; recording the same scores again changes nothing."""


class Tracked(Protocol):
    """What the tracker needs of an experiment."""

    @property
    def config(self) -> ExperimentConfig:
        """Resolved settings."""

    @property
    def config_hash(self) -> str:
        """sha256 of the resolved settings."""

    @property
    def folder(self) -> Path:
        """The run folder."""


class NoTracker:
    """Records nothing."""

    def start(self, cell: Cell) -> None:
        """Nothing."""

    def finish(self, cell: Cell) -> None:
        """Nothing."""


def open_tracker(experiment: Tracked, settings: str) -> Tracker:
    """The tracker that the experiment and WANDB_MODE ask for.

    Args:
        experiment: the experiment.
        settings: its resolved settings as YAML.

    Raises:
        UserError: WANDB_MODE is none of offline, online, disabled; online without a valid key.
    """
    mode = os.environ.get("WANDB_MODE") or "offline"
    if mode == "disabled" or not experiment.config.wandb.enabled:
        return NoTracker()
    if mode not in _MODES:
        raise UserError(f"WANDB_MODE: got '{mode}', allowed: {', '.join(_MODES)}, disabled")
    return WandbTracker(experiment, yaml.safe_load(settings), _MODES[mode])


class WandbTracker:
    """Records cells as W&B runs.

    Args:
        experiment: the experiment.
        settings: its resolved settings.
        mode: `offline` or `online`.
    """

    def __init__(self, experiment: Tracked, settings: dict[str, Any], mode: Mode):
        self._folder, self._mode, self._settings = experiment.folder, mode, settings
        self._project = experiment.config.wandb.project
        self._identity = f"{experiment.config_hash}/{git_commit()}"
        if mode == "online":
            _log_in()

    def start(self, cell: Cell) -> None:
        runs = self._runs()
        if cell.cell_id not in runs:
            digest = hashlib.sha256(f"{self._identity}/{cell.cell_id}".encode()).hexdigest()
            name = f"{cell.model} {cell.vertical} {cell.channel}"
            runs[cell.cell_id] = {"id": digest[:_ID_LENGTH], "name": name, "last_day": 0, "scores": ""}
            with atomic_path(self._folder / RUNS) as temporary:
                temporary.write_text(json.dumps(runs, indent=1) + "\n")

    def finish(self, cell: Cell) -> None:
        self.start(cell)
        run = read_run(self._folder)
        rows = [row for row in run.rows if row["cell_id"] == cell.cell_id]
        transfer = _transfer_of(run, cell)
        scores = hashlib.sha256(json.dumps([rows, transfer]).encode()).hexdigest()
        runs = self._runs()
        known = runs[cell.cell_id]
        if known["scores"] == scores:
            return
        history = _history(run, cell)
        with self._open(cell, known, run.git_commit) as wandb_run:
            for day, values in history.items():
                if day > known["last_day"]:
                    wandb_run.log(values)
            wandb_run.log(_table(rows, history))
            wandb_run.summary.update({**final_scores(rows), **transfer_scores(transfer)})
        known |= {"last_day": max(history, default=0), "scores": scores}
        with atomic_path(self._folder / RUNS) as temporary:
            temporary.write_text(json.dumps(runs, indent=1) + "\n")

    def _open(self, cell: Cell, known: Mapping[str, Any], commit: str) -> Any:
        import wandb

        run = wandb.init(
            project=self._project,
            group=cell.experiment,
            job_type=cell.role,
            name=known["name"],
            id=known["id"],
            resume="allow",
            tags=[tag[:_TAG_LENGTH] for tag in (cell.vertical, cell.channel, self._architecture(cell))],
            config={
                **self._settings,
                "cell": {"cell_id": cell.cell_id, **asdict(cell)},
                "git_commit": commit,
            },
            dir=self._folder,
            mode=self._mode,
            settings=_quiet(),
        )
        run.define_metric("examples_seen")
        run.define_metric("*", step_metric="examples_seen")
        return run

    def _architecture(self, cell: Cell) -> str:
        """Name of the architecture, or of its class where the experiment brings a file of its own."""
        models = {
            STUDENT: self._settings.get("students") or [],
            TEACHER: [self._settings.get("teacher") or {}],
            DOMAIN_TEACHER: self._settings.get("domain_teachers") or [],
        }
        named = (model for model in models.get(cell.role, []) if model.get("name") == cell.model)
        return str(next(named, {}).get("architecture", cell.model)).rsplit(":", maxsplit=1)[-1]

    def _runs(self) -> dict[str, dict[str, Any]]:
        path = self._folder / RUNS
        return json.loads(path.read_text()) if path.is_file() else {}


def final_scores(rows: list[Row]) -> dict[str, float | None]:
    """`final/<split>/<vertical>/<task>/<score>`: mean over seeds, and `..._sd`; None where undefined."""
    of_place: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_place[f"final/{row['split']}/{row['vertical']}/{row['task']}"].append(row)
    found: dict[str, float | None] = {}
    for place, of_seed in of_place.items():
        for column in SCORE_COLUMNS:
            value = band(row[column] for row in of_seed)
            found[f"{place}/{column}"] = value.mean if value else None
            found[f"{place}/{column}_sd"] = value.sd if value else None
    return found


def transfer_scores(transfer: list[Row]) -> dict[str, float | None]:
    """`transfer/<split>/<vertical or macro>/<task>/<measure>` and its interval; None where undefined."""
    return {
        f"transfer/{row['split']}/{row['vertical']}/{row['task']}/{row['measure']}{suffix}": row[column]
        for row in transfer
        for suffix, column in (("", "tr"), ("_low", "tr_low"), ("_high", "tr_high"))
    }


def _transfer_of(run: RecordedRun, cell: Cell) -> list[Row]:
    """Transfer rows of the cell's student: those of its vertical, and those over all verticals."""
    same = ("model", "schedule", "inputs", "route", "lag", "channel")
    mine = [row for row in run.transfer if all(row[name] == getattr(cell, name) for name in same)]
    return [row for row in mine if cell.role == STUDENT and row["vertical"] in (cell.vertical, "macro")]


def _history(run: RecordedRun, cell: Cell) -> dict[int, dict[str, float]]:
    """What to log for each predicted day; empty for a model that is not trained day by day (the floor)."""
    of_day: dict[int, list[DayScore]] = defaultdict(list)
    if any(trained == cell.cell_id for trained, _ in run.trainings):
        for score in day_scores(run, CellPredictions(cell, run.folder)):
            of_day[score.day].append(score)
    return {day: _logged(run, day, scores) for day, scores in sorted(of_day.items())}


def _logged(run: RecordedRun, day: int, scores: list[DayScore]) -> dict[str, float]:
    logged: dict[str, float] = {"examples_seen": _examples_seen(run, scores[0], day), "day": day}
    logged |= _speed(run, scores, day)
    of_curve: dict[str, list[float | None]] = defaultdict(list)
    for score in scores:
        for measure in MEASURES:
            value, curve = getattr(score, measure), f"{score.vertical}/{score.task}/{measure}"
            of_curve[curve].append(value)
            if value is not None:
                logged[f"seeds/{score.seed}/{curve}"] = value
    for curve, values in of_curve.items():
        found = band(values)
        if found:
            logged |= {curve: found.mean, f"{curve}_low": found.low, f"{curve}_high": found.high}
    return logged


def _examples_seen(run: RecordedRun, score: DayScore, day: int) -> int:
    """Examples that the model had been trained on when it predicted the day; the same for every seed."""
    days = run.trainings[score.cell_id, score.seed]["days"]
    return max((trained["examples_seen"] for trained in days if trained["day"] < day), default=0)


def _speed(run: RecordedRun, scores: list[DayScore], day: int) -> dict[str, float]:
    """`training/examples_per_s` and `training/mfu` of the last day trained on, means over seeds; what is known."""
    found: dict[str, list[float]] = defaultdict(list)
    for cell_id, seed in {(score.cell_id, score.seed) for score in scores}:
        before = [trained for trained in run.trainings[cell_id, seed]["days"] if trained["day"] < day]
        for name in ("examples_per_s", "mfu"):
            found[name] += [trained[name] for trained in before[-1:] if trained.get(name) is not None]
    return {f"training/{name}": fmean(values) for name, values in found.items() if values}


def _table(rows: list[Row], history: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """All rows of results.json, one per seed, beside the last point of the curves."""
    import wandb

    table = wandb.Table(
        columns=list(_TABLE_COLUMNS), data=[[row[name] for name in _TABLE_COLUMNS] for row in rows]
    )
    seen = history[max(history)]["examples_seen"] if history else 0
    return {"seeds": table, "examples_seen": seen}


def _quiet() -> Any:
    """Nothing in the terminal, nothing collected but what is logged: the parent process only records."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
    )


def _log_in() -> None:
    """Before hours of training, not after: asks for a key at a terminal, and has the server check it."""
    import wandb

    try:
        wandb.login()
    except wandb.Error as error:
        raise UserError(
            f"WANDB_MODE: got online, but {error} Allowed: an account's key (`wandb login`); "
            "or unset WANDB_MODE to record offline."
        ) from error
