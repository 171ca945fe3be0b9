"""Saves a training between two of its steps, and lets it go on from there.

A checkpoint is made after a step: when one is due, or when the process was asked to stop. Where it stands is a day and
the batches of it that were trained on; when those are all of the day's, the days to be predicted after it are still to
be predicted. What is predicted goes into a checkpoint a whole day at a time: nothing is predicted twice or left out.

Of several processes that train together all save after the same step: when the first one's clock says so, or when any
of them was asked to stop.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import lightning as L
from torch.optim import Optimizer

from distill.batch import Batch
from distill.checkpoints.state import State, capture, capture_own, own_of, restore, set_random_state
from distill.checkpoints.stops import Stops
from distill.checkpoints.store import CheckpointStore, Facts, Found
from distill.checkpoints.together import agree
from distill.config import CheckpointConfig
from distill.distributed.share import is_first
from distill.module import DistillModule

LARGEST_SHARE = 0.05
"""Of a training's time that checkpoints made by time may take."""


class Report(Protocol):
    """Of the days (`distill.training.DayCallback`)."""

    def state_dict(self) -> dict[str, Any]:
        """What was reported so far."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""

    def label_loss(self, module: DistillModule) -> float:
        """Mean loss of the labels of the day so far."""


class Days(Protocol):
    """Where in its days a training is (`distill.day_data.DayData`)."""

    @property
    def today(self) -> int:
        """The day that is trained on, or was last."""

    @property
    def done(self) -> int:
        """Batches of it that were trained on before this process went on."""

    def position(self) -> dict[str, Any]:
        """In the stream of that day, after the last batch."""


@dataclass(frozen=True)
class Start:
    """Where a training goes on.

    Attributes:
        day: the day.
        batches: of it, trained on already.
        stream: position in its stream.
        trained: True when that was all of the day, and what is to be predicted after it is not predicted yet.
    """

    day: int
    batches: int
    stream: Mapping[str, Any]
    trained: bool


class Checkpoints(L.Callback):
    """The checkpoints of one training, for `distill.training.fit`.

    Args:
        store: where they lie.
        config: when they are made.

    Attributes:
        stops: holds signals back until the state is saved.
        seconds, cpu_seconds: that earlier processes spent on what this one goes on from.
        made: how many were made in this process.
        saving: wall time that this took, s.
    """

    def __init__(self, store: CheckpointStore, config: CheckpointConfig):
        self.store, self.config = store, config
        self.stops = Stops()
        self.seconds = self.cpu_seconds = 0.0
        self.made, self.saving = 0, 0.0
        self._clocks = time.perf_counter(), time.process_time()
        self._written, self._cost = time.monotonic(), 0.0
        self._found: Found | None = None
        self._own: State = {}

    def resume(self, module: DistillModule, days: Days, report: Report) -> Start | None:
        """Put the newest checkpoint's state back, all but optimiser and generators, whose time comes in training.

        Args:
            module: freshly built, with its recorder.
            days: to be asked where the training is when it is saved.
            report: of the days.

        Returns:
            Where to go on; None to begin at the beginning.
        """
        self._days, self._report = days, report
        self._found = found = self.store.newest()
        if found is None:
            return None
        restore(module, found.training)
        self._own = own_of(found.own)
        module.resume_counting(self._own["counted"])
        module.resume_recording(found.metrics["recorder"])
        report.load_state_dict(found.metrics["report"])
        self.seconds, self.cpu_seconds = found.metrics["seconds"]
        return Start(**found.training["start"])

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._found is not None:
            for optimizer, state in zip(trainer.optimizers, self._found.training["optimizers"], strict=True):
                optimizer.load_state_dict(state)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._found is not None:
            set_random_state(self._own["random"])
            self._found = None
        self._written = time.monotonic()
        self.stops.listen()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, DistillModule)
        last = trainer.is_last_batch
        # When the last day has been predicted, Lightning has counted beyond it.
        self._day, self._batches = self._days.today, self._days.done + batch_idx + 1
        if last:
            self._recorded = module.recorded()
        if self._agree(module.steps):
            recorded = self._recorded if last else module.recorded()
            self._save(module, trainer.optimizers, recorded, last)
        if self.stops.asked is not None:
            self.stops.obey()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.stops.listen()

    def on_validation_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *unused: Any) -> None:
        self._stop_predicting(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._stop_predicting(trainer, module)

    def _stop_predicting(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave out what was predicted since the last step, and stop."""
        self._agree()
        if self.stops.asked is None:
            return
        assert isinstance(module, DistillModule)
        if self._found is None:  # otherwise no step was made since that checkpoint
            self._save(module, trainer.optimizers, self._recorded, trained=True)
        self.stops.obey()

    def _agree(self, steps: int | None = None) -> bool:
        """Note whether any process was asked to stop.

        Args:
            steps: of the training so far, right after one.

        Returns:
            Whether a checkpoint is to be made.
        """
        due = steps is not None and is_first() and self._is_due(steps)
        self.stops.asked, due = agree(self.stops.asked, due)
        return due or self.stops.asked is not None

    def _is_due(self, steps: int) -> bool:
        every = self.config.every_batches
        if every and steps % every == 0:
            return True
        pause = max(60 * self.config.every_minutes, self._cost / LARGEST_SHARE)
        return self.config.every_minutes > 0 and time.monotonic() - self._written >= pause

    def _save(
        self, module: DistillModule, optimizers: Sequence[Optimizer], recorded: dict[str, Any], trained: bool
    ) -> None:
        began = time.monotonic()
        start = {
            "day": self._day,
            "batches": self._batches,
            "stream": self._days.position(),
            "trained": trained,
        }
        training = {"start": start, **capture(module, optimizers)}
        wall, cpu = self._clocks
        spent = self.seconds + time.perf_counter() - wall, self.cpu_seconds + time.process_time() - cpu
        metrics = {
            "recorder": recorded,
            "report": self._report.state_dict(),
            "seconds": spent,
        }
        facts = Facts(module.steps, self._day, self._batches, self._report.label_loss(module))
        self.store.write(facts, training, metrics, capture_own(module))
        self._written = time.monotonic()
        self._cost = self._written - began
        self.made, self.saving = self.made + 1, self.saving + self._cost
