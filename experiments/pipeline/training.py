"""One model on its way through the days: the streams it reads, the training, what is left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from distill.cells import Cell
from distill.checkpoint import save_model, start_model
from distill.checkpoints import Checkpoints, CheckpointStore
from distill.config import (
    ComputeConfig,
    DelayedLabels,
    OptimizerConfig,
    StudentConfig,
    TeacherConfig,
    of_seed,
)
from distill.dataset import DataSet
from distill.delay import label_rule
from distill.distributed import is_first, process_number, processes, refuse_together, split_dense
from distill.errors import UserError
from distill.files import atomic_path
from distill.module import DistillModule
from distill.predictions import prediction_path, write_predictions
from distill.progress import Progress
from distill.protocols import Architecture, Channel
from distill.schedule import DayPlan
from distill.seeding import seeded
from distill.seen_days import seen_through
from distill.strict_json import read_mapping
from distill.training import DayCallback, DayData, DayReport, fit
from experiments.pipeline.cost import ModelCost, counted_day, model_cost
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.recorder import PredictionRecorder
from experiments.pipeline.streams import rows_of, streams, with_others
from experiments.pipeline.supply import Supply

REPORT, MODEL = "report.json", "model.safetensors"
REPORT_ADVICE = "Remove it, and the model is trained again (`distill run`)."
UNFINISHED = "unfinished"
"""Folder of the checkpoints of a training that has not ended (`distill.checkpoints`)."""


@dataclass(frozen=True)
class Settings:
    """How one model is trained, of the fields of the same names in its config."""

    optimizer: OptimizerConfig
    compute: ComputeConfig
    delayed_labels: DelayedLabels
    start: str | None = None

    @staticmethod
    def of(model: TeacherConfig | StudentConfig, optimizer: OptimizerConfig | None = None) -> Settings:
        """Those of a model; with another optimiser when one is given."""
        start = model.start if isinstance(model, TeacherConfig) else None
        return Settings(optimizer or model.optimizer, model.compute, model.delayed_labels, start)


class Clock:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Both, s."""
        wall, cpu = self._start
        return time.perf_counter() - wall, time.process_time() - cpu


@dataclass(frozen=True)
class Training:
    """One model of one seed, ready to be trained.

    Attributes:
        experiment: the experiment.
        cell: which model.
        seed: of the training.
        model: the model.
        channels: attached to it, by name.
        settings: how it is trained.
        supply: what it is handed beside the examples.
    """

    experiment: Experiment
    cell: Cell
    seed: int
    model: Architecture
    channels: Mapping[str, Channel]
    settings: Settings
    supply: Supply

    def run(
        self, plan: DayPlan, progress: Progress, after_day: Callable[[int], None] = lambda day: None
    ) -> None:
        """Train through the days of a plan; leave predictions, parameters and report.

        Args:
            plan: days trained on and predicted.
            progress: shown to the user.
            after_day: called when a day is trained, before anything is predicted.

        Raises:
            UserError: the surface has no rows on the days that are scored.
            NonFiniteError: a loss or gradient that is not finite.
        """
        refuse_together(self.channels)
        clock = Clock()
        experiment, cell, model = self.experiment, self.cell, self.model
        plan, rows = with_rows(experiment, cell, plan)
        rows = with_others(experiment, rows, self.supply)
        self._start(plan.train[0])
        recorder, settings = PredictionRecorder(), self.settings
        module = DistillModule(model, self.channels, settings.optimizer, recorder, settings.compute)
        days = self.days()
        cost = model_cost(model, days(counted_day(experiment.schedule, plan), False))
        if processes() > 1 and experiment.config.sharding.dense == "fsdp2":
            split_dense(model)
        title = f"{cell.model} {cell.vertical} {cell.channel} seed {self.seed}"
        callback = DayCallback(plan, progress, rows, title, after_day, self.begin_day)
        checkpoints = checkpoints_of([self], plan)
        # Dropout; each of several processes drops units of other rows.
        with seeded(self.seed, "training" if is_first() else f"training.{process_number()}"):
            reports = fit(module, DayData(days, plan), callback, checkpoints)
        wall, cpu = clock.read()
        self.leave_behind(
            recorder,
            cost,
            reports,
            wall + checkpoints.seconds,
            cpu + checkpoints.cpu_seconds,
            checkpoints={"made": checkpoints.made, "seconds": checkpoints.saving},
        )
        checkpoints.store.remove()

    def days(self) -> Callable[[int, bool], IterableDataset]:
        """The model's stream of each day, see `streams`."""
        settings = self.settings
        labels = label_rule(settings.delayed_labels, self.experiment.data)
        return streams(
            self.experiment,
            self.model,
            settings.optimizer.batch_size,
            self.cell.domains,
            self.supply,
            labels,
        )

    def leave_behind(
        self,
        recorder: PredictionRecorder,
        cost: ModelCost,
        reports: Sequence[DayReport],
        seconds: float,
        cpu_seconds: float,
        **more: Any,
    ) -> None:
        """Write predictions, parameters and, when both are there, the report.

        Args:
            recorder: holds what was predicted.
            cost: of the model.
            reports: of the days trained on.
            seconds, cpu_seconds: of the whole training.
            more: further entries of the report.
        """
        experiment, cell, model = self.experiment, self.cell, self.model
        recorder.take_from_all()
        folder = experiment.checkpoint_folder(cell, self.seed)
        if is_first():
            write_predictions(
                prediction_path(experiment.folder, cell, self.seed),
                recorder.predictions(experiment, model.tasks),
            )
        last = reports[-1].day
        seen = seen_through(experiment.data.schema.days[last - 1])
        save_model(model, folder / MODEL, {"trained_through": last, "seed": self.seed, **seen})
        if not is_first():
            return
        report = {
            "settings_hash": experiment.settings_hash(cell, self.seed),
            "config_hash": experiment.config_hash,
            "data_fingerprint": experiment.data.fingerprint,
            "last_day": experiment.schedule.last_day,
            "cell_id": cell.cell_id,
            "seed": self.seed,
            **asdict(cost),
            "train_flops": sum(day.flops for day in reports),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            **more,
            "days": [asdict(day) for day in reports],
        }
        with atomic_path(folder / REPORT) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")

    def start_at_base_rates(self, day: int) -> None:
        """Start the biases of model and channels at the rates of a day, the first that is trained on."""
        rates = first_rates(self.experiment.data, day, self.cell.domains)
        parts: list[Architecture | Channel] = [self.model, *self.channels.values()]
        for part in parts:
            part.set_base_rates(rates)

    def _start(self, day: int) -> None:
        """Where `start` of the config says, or at the rates of the first day."""
        self.start_at_base_rates(day)
        if self.settings.start is not None:
            start_model(self.model, Path(of_seed(self.settings.start, self.seed)), self.channels)

    def begin_day(self, day: int) -> None:
        """Tell the channels that a day begins, with the snapshot that the schedule allows on it."""
        for channel in self.channels.values():
            channel.begin_day(day, self.supply.snapshot(day) if "snapshot" in channel.needs else None)


def checkpoints_of(trainings: Sequence[Training], plan: DayPlan) -> Checkpoints:
    """From which trainings that are done as one go on when they were stopped.

    They lie in the folder of the first one; those of other settings, data, days or members are of no use.

    Args:
        trainings: one, or the members of a bank.
        plan: days trained on and predicted.
    """
    first = trainings[0]
    identity = {
        "members": [
            {
                "settings_hash": training.experiment.settings_hash(training.cell, training.seed),
                "data_fingerprint": training.experiment.data.fingerprint,
                "cell_id": training.cell.cell_id,
                "seed": training.seed,
            }
            for training in trainings
        ],
        "train": plan.train,
        "predict_after": list(plan.predict_after.items()),
    }
    folder = first.experiment.checkpoint_folder(first.cell, first.seed) / UNFINISHED
    config = first.experiment.config.checkpoint
    return Checkpoints(CheckpointStore(folder, identity, config.keep), config)


def is_current(experiment: Experiment, cell: Cell, seed: int) -> bool:
    """True when a training ended with these settings and data, through the days needed now, and all of it is there."""
    folder = experiment.checkpoint_folder(cell, seed)
    left = (folder / REPORT, folder / MODEL, prediction_path(experiment.folder, cell, seed))
    if not all(path.is_file() for path in left):
        return False
    report = read_mapping(folder / REPORT, UserError, REPORT_ADVICE)
    # A final run has predicted the tune days on its way to the test days.
    return describes(report, experiment, cell, seed) and report["last_day"] >= experiment.schedule.last_day


def describes(report: Mapping[str, Any], experiment: Experiment, cell: Cell, seed: int) -> bool:
    """True when a report is that of a cell's training with what decides about it now, and with this data.

    One from before there were hashes of single trainings says it of all settings.
    """
    found, wanted = report.get("settings_hash"), experiment.settings_hash(cell, seed)
    if found is None:
        found, wanted = report.get("config_hash"), experiment.config_hash
    return found == wanted and report.get("data_fingerprint") == experiment.data.fingerprint


def read_report(experiment: Experiment, cell: Cell, seed: int) -> dict[str, Any]:
    """What a finished training left behind."""
    return read_mapping(experiment.checkpoint_folder(cell, seed) / REPORT, UserError, REPORT_ADVICE)


def with_rows(experiment: Experiment, cell: Cell, plan: DayPlan) -> tuple[DayPlan, dict[int, int]]:
    """The plan without the days on which the cell's surface has no rows, and the rows of all of its days."""
    rows = rows_of(experiment.data, sorted({*plan.train, *plan.predicted}), cell.domains)
    plan = plan.only([day for day, count in rows.items() if count])
    _refuse_unscored(experiment, cell, plan)
    return plan, rows


def _refuse_unscored(experiment: Experiment, cell: Cell, plan: DayPlan) -> None:
    for split, days in experiment.schedule.scored_days.items():
        if not set(days) & set(plan.predicted):
            raise UserError(
                f"{cell.role.replace('_', ' ')} '{cell.model}': vertical '{cell.vertical}' has no rows to predict on "
                f"the {split} days {days}. Leave the vertical out, or choose other days."
            )


def first_rates(data: DataSet, day: int, domains: Sequence[str] | None) -> dict[str, Tensor]:
    """Rate of each domain on the first day trained on, from labels that are known then; NaN for other domains.

    Args:
        data: the data set.
        day: the first day.
        domains: the domains the model sees; None for all.

    Returns:
        Task to float64 [D].
    """
    rates = {
        task: torch.from_numpy(of_task) for task, of_task in data.base_rates([day], matured=True).items()
    }
    if domains is None:
        return rates
    seen = torch.zeros(len(data.schema.domains), dtype=torch.bool)
    seen[[data.schema.domain_index(name) for name in domains]] = True
    return {task: torch.where(seen, of_task, torch.nan) for task, of_task in rates.items()}
