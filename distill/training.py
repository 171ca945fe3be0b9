"""Lightning's trainer over days: one epoch is one day, the validation after it predicts the next.

So every day is predicted before it is trained on, with no loop of our own.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.flops import count
from distill.lean import LeanStrategy, NoProfiler
from distill.module import DistillModule
from distill.peak import peak_flops
from distill.progress import Progress
from distill.schedule import DayPlan

Days = Callable[[int, bool], IterableDataset]


class DayData(L.LightningDataModule):
    """Hands Lightning the day that belongs to the epoch.

    Args:
        days: (day, True when trained on) -> a stream of batches.
        plan: which days are trained on and predicted.
    """

    def __init__(self, days: Days, plan: DayPlan):
        super().__init__()
        self.days, self.plan = days, plan

    def train_dataloader(self) -> IterableDataset:  # a `DataLoader` around it would do nothing, at every step
        return self.days(self._today(), True)

    def val_dataloader(self) -> list[IterableDataset]:
        return [self.days(day, False) for day in self.plan.predict_after.get(self._today(), ())]

    def _today(self) -> int:
        assert self.trainer is not None
        return self.plan.train[self.trainer.current_epoch]


@dataclass
class DayReport:
    """What a day's training left behind.

    Attributes:
        day: the day.
        examples_seen: examples trained on so far, this day included.
        means: mean losses of the day's steps.
        seconds: wall time of the day's training, s; counting FLOPs takes no part in it.
        cpu_seconds: processor time of the day's training, s.
        examples_per_s: examples of the day over `seconds`.
        flops_per_example: model FLOPs of training on one example (distill.flops), mean of the day's middle batch.
        mfu: share of this process's peak (distill.peak) that these FLOPs are; None when the peak is not known.
    """

    day: int
    examples_seen: int
    means: dict[str, float]
    seconds: float
    cpu_seconds: float
    examples_per_s: float
    flops_per_example: float
    mfu: float | None

    @property
    def flops(self) -> float:
        """Model FLOPs of the day's training."""
        return self.flops_per_example * self.examples_per_s * self.seconds


@dataclass
class DayCallback(L.Callback):
    """Reports every trained day, keeps time, counts FLOPs, moves the progress bar.

    Attributes:
        plan: the days.
        progress: shown to the user.
        rows: examples of each day, for the bar.
        title: the bar's name.
        after_day: called when a day is trained, before anything is predicted.
        before_day: called before a day is predicted or trained on.
    """

    plan: DayPlan
    progress: Progress
    rows: dict[int, int]
    title: str
    after_day: Callable[[int], None] = lambda day: None
    before_day: Callable[[int], None] = lambda day: None
    reports: list[DayReport] = field(default_factory=list)
    _open: ExitStack = field(default_factory=ExitStack)

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        day = self.plan.train[trainer.current_epoch]
        self.before_day(day)
        task = self.progress.task(f"{self.title} day {day}", total=self.rows.get(day), unit="examples")
        self._bar = self._open.enter_context(task)
        assert isinstance(module, DistillModule)
        self._seen = module.examples
        self._watch = _Stopwatch()

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        # Histories grow, within a day too; a stream that does not know its length is counted at its start.
        batches = trainer.num_training_batches
        if batch_idx != (batches // 2 if isinstance(batches, int) else 0):
            return
        assert isinstance(module, DistillModule)
        if (
            module.model.history_length or not self.reports
        ):  # without histories every day costs what the first does
            with self._watch.stopped():
                self._flops_per_example = count(module.model, batch).per_example

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._bar.advance(len(batch))
        if trainer.is_last_batch:  # the end of the epoch would be too late: validation runs inside it
            assert isinstance(module, DistillModule)
            self._end(self.plan.train[trainer.current_epoch], module)

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for day in self.plan.predict_after[self.plan.train[trainer.current_epoch]]:
            self.before_day(day)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._open.__exit__(type(exception), exception, exception.__traceback__)

    def _end(self, day: int, module: DistillModule) -> None:
        wall, cpu = self._watch.read()
        rate, flops = (module.examples - self._seen) / wall, self._flops_per_example
        peak = peak_flops(module.device, module.compute.precision)
        mfu = None if peak is None else rate * flops / peak
        self._bar.advance(0, MFU="peak not known" if mfu is None else f"{100 * mfu:.1f} %")
        self._open.close()
        means = module.take_means()
        self.reports.append(DayReport(day, module.examples, means, wall, cpu, rate, flops, mfu))
        self.after_day(day)


def fit(module: DistillModule, data: DayData, callback: DayCallback) -> list[DayReport]:
    """Train through the plan's days and predict as it says.

    Args:
        module: model and channels.
        data: the days.
        callback: progress, timing and what happens after each day.

    Returns:
        One report a trained day.

    Raises:
        NonFiniteError: a loss or gradient that is not finite.
        KeyboardInterrupt: Ctrl-C.
    """
    with _quiet(), _own_interrupt():
        trainer = _trainer(max_epochs=len(data.plan.train), callbacks=[callback])
        trainer.fit(module, datamodule=data)
    return callback.reports


def predict(module: DistillModule, streams: list[IterableDataset]) -> None:
    """Hand every batch's logits to the module's recorder; nothing is trained.

    Args:
        module: holds model and recorder.
        streams: days to predict.
    """
    with _quiet(), _own_interrupt():
        _trainer().validate(module, dataloaders=streams, verbose=False)


def _trainer(**settings: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",  # the kernels have no GPU path yet (`distill ls kernels`)
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        profiler=NoProfiler(),
        strategy=LeanStrategy(torch.device("cpu")),
        **settings,
    )


class _Stopwatch:
    """Wall and processor time since it was made, s."""

    def __init__(self) -> None:
        self._start = self._clocks()

    def read(self) -> tuple[float, float]:
        wall, cpu = self._clocks()
        return wall - self._start[0], cpu - self._start[1]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done inside takes no time."""
        before = self.read()
        yield
        wall, cpu = self._clocks()
        self._start = wall - before[0], cpu - before[1]

    @staticmethod
    def _clocks() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Lightning answers Ctrl-C by leaving the process; here it stays an interrupt, so that callers can act on it."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's tips, and without what it says of its own outdated calls."""
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _ADVICE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_ADVICE = (
    ".*Total length of `list` across ranks is zero.*",  # a day after which nothing is predicted
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
)
