"""Weights & Biases: one run per cell, written from the run folder when the cell is scored, and one per export. Free of
torch.

Workers train seeds side by side in processes of their own and write predictions; the tracker turns what
they wrote into curves. Ids are fixed and saved (`wandb_runs.json`) before the training starts, so that a job
that is repeated after an interruption continues its runs: days that a run has are not sent again.

Offline unless WANDB_MODE says otherwise; `wandb leet <output>/wandb` shows the runs in the terminal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from distill.cells import DOMAIN_TEACHER, Cell
from distill.config import ExperimentConfig
from distill.errors import UserError
from distill.files import atomic_path
from experiments import tracking_keys as keys
from experiments.familiarity import Familiarity, familiarity_of
from experiments.lineage import EXPORT, Artifact, exported, inputs, outputs, write_description
from experiments.pipeline.environment import git_commit
from experiments.recorded import STUDENT, TEACHER, RecordedRun, read_run
from experiments.tracked_values import (
    Table,
    cost_of,
    final_scores,
    history,
    tables,
    transfer_of,
    transfer_scores,
)

RUNS = "wandb_runs.json"
"""cell_id to the id and name of its run, the last day it holds, the digest of its scores and of its settings."""

Mode = Literal["offline", "online"]
_MODES: dict[str, Mode] = {"offline": "offline", "online": "online"}
_ID_LENGTH = 16


class Tracker(Protocol):
    """Where runs are recorded."""

    def start(self, cell: Cell) -> None:
        """Say that a cell is about to be trained; may be said again."""

    def finish(self, cell: Cell) -> None:
        """Record a cell that results.json has scores of; recording the same scores again changes nothing."""

    def exported(self, cell: Cell, seed: int, folder: Path) -> None:
        """Record that a student of a seed was exported to a folder, in a run of its own."""


class Tracked(Protocol):
    """What the tracker needs of an experiment."""

    @property
    def config(self) -> ExperimentConfig:
        """Resolved settings."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    def settings_hash(self, cell: Cell) -> str:
        """sha256 of what decides about a cell."""


class NoTracker:
    """Records nothing."""

    def start(self, cell: Cell) -> None:
        """Nothing."""

    def finish(self, cell: Cell) -> None:
        """Nothing."""

    def exported(self, cell: Cell, seed: int, folder: Path) -> None:
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
        self._settings_hash, self._commit = experiment.settings_hash, git_commit()
        self._known_familiar: tuple[str, Familiarity | None] | None = None
        if mode == "online":
            log_in("WANDB_MODE: got online")

    def start(self, cell: Cell) -> None:
        runs, settings = self._runs(), self._settings_hash(cell)
        if (other := runs.get(cell.cell_id, {}).get("settings", settings)) != settings:
            # It is trained anew. Its earlier run is found again when these settings come back.
            runs[f"{cell.cell_id} {other}"] = runs.pop(cell.cell_id)
        if cell.cell_id not in runs:
            name = keys.run_name(cell.model, cell.vertical, cell.channel)
            new = {"id": self._id(cell, cell.cell_id), "name": name, "last_day": 0, "scores": ""}
            runs[cell.cell_id] = runs.pop(f"{cell.cell_id} {settings}", new | {"settings": settings})
            with atomic_path(self._folder / RUNS) as temporary:
                temporary.write_text(json.dumps(runs, indent=1) + "\n")

    def finish(self, cell: Cell) -> None:
        self.start(cell)
        run = read_run(self._folder)
        rows = [row for row in run.rows if row["cell_id"] == cell.cell_id]
        transfer = transfer_of(run, cell)
        scores = hashlib.sha256(json.dumps([rows, transfer]).encode()).hexdigest()
        runs = self._runs()
        known = runs[cell.cell_id]
        if known["scores"] == scores:
            return
        days = history(run, cell)
        with self._open(cell, known, run.git_commit) as wandb_run:
            for day, values in days.items():
                if day > known["last_day"]:
                    wandb_run.log(values)
            self._log_tables(wandb_run, tables(run, cell, rows, transfer, self._familiar(run)), days)
            wandb_run.summary.update(
                {**final_scores(rows), **transfer_scores(transfer), **cost_of(run, cell)}
            )
            self._log_lineage(wandb_run, run, cell)
        known |= {"last_day": max(days, default=0), "scores": scores}
        with atomic_path(self._folder / RUNS) as temporary:
            temporary.write_text(json.dumps(runs, indent=1) + "\n")

    def exported(self, cell: Cell, seed: int, folder: Path) -> None:
        run = read_run(self._folder)
        sources, made = exported(run, cell, seed, folder)
        known = {"id": self._id(cell, made.name), "name": made.name}
        with self._open(cell, known, run.git_commit, EXPORT) as wandb_run:
            self._log_artifacts(wandb_run, sources, uses=True)
            self._log_artifacts(wandb_run, [made], uses=False)

    def _id(self, cell: Cell, of: str) -> str:
        """Of a run, the same whenever it is made again with what decides about its cell."""
        identity = f"{self._settings_hash(cell)}/{self._commit}/{of}"
        return hashlib.sha256(identity.encode()).hexdigest()[:_ID_LENGTH]

    def _open(self, cell: Cell, known: Mapping[str, Any], commit: str, job: str = "") -> Any:
        """A run of a cell: its training, or another job on it."""
        import wandb

        run = wandb.init(
            project=self._project,
            group=cell.experiment,
            job_type=job or cell.role,
            name=known["name"],
            id=known["id"],
            resume="allow",
            tags=self._tags(cell, job or cell.role),
            config={
                **self._settings,
                "cell": {"cell_id": cell.cell_id, **asdict(cell)},
                "git_commit": commit,
            },
            dir=self._folder,
            mode=self._mode,
            settings=_quiet(),
        )
        run.define_metric(keys.EXAMPLES_SEEN)
        run.define_metric("*", step_metric=keys.EXAMPLES_SEEN)
        return run

    def _log_tables(
        self, wandb_run: Any, found: Mapping[str, Table], days: Mapping[int, Mapping[str, float]]
    ) -> None:
        """Beside the last point of the curves."""
        import wandb

        logged: dict[str, Any] = {
            name: wandb.Table(columns=list(table.columns), data=table.rows) for name, table in found.items()
        }
        seen = days[max(days)][keys.EXAMPLES_SEEN] if days else 0
        wandb_run.log({**logged, keys.EXAMPLES_SEEN: seen})

    def _log_lineage(self, wandb_run: Any, run: RecordedRun, cell: Cell) -> None:
        """What the cell was made from and what it left."""
        self._log_artifacts(wandb_run, inputs(run, cell), uses=True)
        self._log_artifacts(wandb_run, outputs(run, cell), uses=False)

    def _log_artifacts(self, wandb_run: Any, artifacts: Sequence[Artifact], uses: bool) -> None:
        """`Run.use_artifact` refuses to work offline, though the record that it sends online can be kept and sent
        later; so that record is made here."""
        import wandb

        for artifact in artifacts:
            sent = wandb.Artifact(artifact.name, artifact.kind, metadata={"made_from": artifact.made_from})
            path = write_description(self._folder, artifact)
            sent.add_file(str(path), name="description.json", policy="immutable", skip_cache=True)
            wandb_run._log_artifact(sent, is_user_created=True, use_after_commit=uses)

    def _familiar(self, run: RecordedRun) -> Familiarity | None:
        """Old and new users and items of the judged days, read once; None where the data set is not there."""
        if self._known_familiar is None or self._known_familiar[0] != run.split:
            found = familiarity_of(run)
            self._known_familiar = run.split, None if isinstance(found, str) else found
        return self._known_familiar[1]

    def _tags(self, cell: Cell, job: str) -> list[str]:
        tags = (keys.tag(job, cell.model), cell.vertical, cell.channel, self._architecture(cell))
        return [tag[: keys.TAG_LENGTH] for tag in tags]

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


def log_in(got: str, otherwise: str = "unset WANDB_MODE to record offline") -> None:
    """Before hours of training, not after: asks for a key at a terminal, and has the server check it.

    Args:
        got: what asks for it, to begin the error with.
        otherwise: what can be done without a key, to end it with.

    Raises:
        UserError: no key, or not a valid one; the text never holds the key.
    """
    import wandb

    try:
        problem = "" if wandb.login() else "no key was given."
    except wandb.Error as error:
        problem = without_key(str(error))
    if problem:
        raise UserError(
            f"{got}, but {problem} Allowed: an account's key (`wandb login`, or WANDB_API_KEY); or {otherwise}."
        )


def without_key(text: str) -> str:
    """The text without the key in WANDB_API_KEY, whatever W&B said of it."""
    key = os.environ.get("WANDB_API_KEY", "")
    return text.replace(key, "***") if key else text
