"""Lightning's trainer over days: one epoch is one day, the validation after it predicts the next.

So every day is predicted before it is trained on, with no loop of our own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import lightning as L
import torch
from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.checkpoints import Checkpoints, Start
from distill.day_data import DayData
from distill.distributed import AveragingStrategy, processes
from distill.lean import LeanStrategy, NoProfiler
from distill.module import DistillModule
from distill.peak import peak_flops
from distill.progress import Progress
from distill.quiet import own_interrupt, quiet
from distill.running_ne import RunningNE
from distill.schedule import DayPlan

NE_SECONDS = 0.5
"""Between two looks at NE while a day is trained on."""


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
        mfu: share of the processes' peak (distill.peak) that these FLOPs are; None when the peak is not known.
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


@dataclass(frozen=True)
class _Begun:
    """A day under way.

    Attributes:
        seen: examples trained on before it.
        batches: of it, trained on by earlier processes.
        spent: wall and processor time of earlier processes on it, s.
    """

    seen: int
    batches: int = 0
    spent: tuple[float, float] = (0.0, 0.0)


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
    _begun: _Begun | None = None
    _flops: list[float] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The reports, and what the day under way has taken so far."""
        begun = self._begun
        if begun is not None:
            begun = replace(begun, batches=self._batches, spent=self._watch.read())
        return {
            "reports": [asdict(report) for report in self.reports],
            "begun": None if begun is None else asdict(begun),
            "flops": self._flops,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        self.reports = [DayReport(**report) for report in state_dict["reports"]]
        self._begun = None if state_dict["begun"] is None else _Begun(**state_dict["begun"])
        self._flops = state_dict["flops"]

    def label_loss(self, module: DistillModule) -> float:
        """Mean loss of the labels in the steps of the day so far, each scored before it was learnt from; of the day
        before where the day has come to none yet, infinite on the first.
        """
        told = [report.means for report in self.reports[-1:]]
        if self._begun is not None:
            told.append(module.means())
        return next((means["loss_labels"] for means in reversed(told) if "loss_labels" in means), math.inf)

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        day = self.plan.train[trainer.current_epoch]
        self.before_day(day)
        assert isinstance(module, DistillModule)
        begun = self._begun or _Begun(module.examples)
        self._batches = begun.batches
        rows, done = self.rows.get(day), module.examples - begun.seen
        title = f"{self.title} day {day}" + (f" from example {done:,}" if done else "")
        total = None if rows is None else rows - done
        self._bar = self._open.enter_context(self.progress.task(title, total=total, unit="examples"))
        self._begun, self._watch = begun, _Stopwatch(begun.spent)
        self._ne, self._next_ne = RunningNE(), time.monotonic() + NE_SECONDS
        self._counted = module.examples

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        assert self._begun is not None and isinstance(module, DistillModule)
        done, batches = self._begun.batches, trainer.num_training_batches
        # Histories grow, within a day too; a stream that does not know its length is counted at its start.
        if done + batch_idx != ((done + batches) // 2 if isinstance(batches, int) else 0):
            return
        if (
            module.model.history_length or not self.reports
        ):  # without histories every day costs what the first does
            with self._watch.stopped():
                self._flops = module.count_flops(batch)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, DistillModule)
        if batch.own:
            self._ne.add(batch.labels[:, module.task_index], batch.label_mask[:, module.task_index])
        self._bar.advance(module.examples - self._counted, **self._shown(module))
        self._counted = module.examples
        self._batches += 1
        if trainer.is_last_batch:  # the end of the epoch would be too late: validation runs inside it
            self._end(self.plan.train[trainer.current_epoch], module)

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for day in self.plan.predict_after[self.plan.train[trainer.current_epoch]]:
            self.before_day(day)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._open.__exit__(type(exception), exception, exception.__traceback__)

    def _shown(self, module: DistillModule) -> dict[str, float]:
        """What the bar is to show beside the count, now and then: reading it off the sums takes time."""
        now = time.monotonic()
        if now < self._next_ne:
            return {}
        self._next_ne = now + NE_SECONDS
        return self._ne_of(module.means())

    def _ne_of(self, means: dict[str, float]) -> dict[str, float]:
        """NE of the day so far; empty where no label loss was counted, or all labels are alike."""
        ne = self._ne.of(means["loss_labels"]) if "loss_labels" in means else None
        return {} if ne is None else {"NE": ne}

    def _end(self, day: int, module: DistillModule) -> None:
        assert self._begun is not None and self._flops is not None
        wall, cpu = self._watch.read()
        rate = (module.examples - self._begun.seen) / wall
        flops = module.flops_per_example(self._flops)
        peak = peak_flops(module.device, module.compute.precision)
        mfu = None if peak is None else rate * flops / (peak * processes())
        means = module.take_means()
        shown = {"MFU": "peak not known" if mfu is None else f"{100 * mfu:.1f} %"}
        self._bar.advance(0, **self._ne_of(means), **shown)
        self._open.close()
        self.reports.append(DayReport(day, module.examples, means, wall, cpu, rate, flops, mfu))
        self._begun = None
        self.after_day(day)


def fit(
    module: DistillModule, data: DayData, callback: DayCallback, checkpoints: Checkpoints | None = None
) -> list[DayReport]:
    """Train through the plan's days and predict as it says.

    Args:
        module: model and channels.
        data: the days.
        callback: progress, timing and what happens after each day.
        checkpoints: of this training; it goes on from the newest. Without any it begins at the beginning.

    Returns:
        One report a trained day.

    Raises:
        NonFiniteError: a loss or gradient that is not finite.
        KeyboardInterrupt: Ctrl-C, and whatever signals are turned into it; with checkpoints, after the state was saved.
    """
    callbacks: list[L.Callback] = [callback]
    with ExitStack() as inside:
        inside.enter_context(quiet())
        inside.enter_context(own_interrupt())
        if checkpoints is not None:
            callbacks.append(checkpoints)
            inside.enter_context(checkpoints.stops)
            start = checkpoints.resume(module, data, callback)
            if start is not None:
                _go_on(start, module, data, callback, checkpoints)
        if data.plan.train:
            _trainer(max_epochs=len(data.plan.train), callbacks=callbacks).fit(module, datamodule=data)
    return callback.reports


def _go_on(
    start: Start, module: DistillModule, data: DayData, callback: DayCallback, checkpoints: Checkpoints
) -> None:
    """Leave out what is done; after a day that was trained, predict what is left to be predicted."""
    plan = data.plan
    place = plan.train.index(start.day)
    data.plan = callback.plan = replace(plan, train=plan.train[place:])
    if not start.trained:
        data.start = start
        return
    if plan.predict_after.get(start.day):
        _trainer(callbacks=[callback, checkpoints]).validate(module, datamodule=data, verbose=False)
    data.plan = callback.plan = replace(plan, train=plan.train[place + 1 :])


def predict(module: DistillModule, streams: list[IterableDataset]) -> None:
    """Hand every batch's logits to the module's recorder; nothing is trained.

    Args:
        module: holds model and recorder.
        streams: days to predict.
    """
    with quiet(), own_interrupt():
        _trainer().validate(module, dataloaders=streams, verbose=False)


def _trainer(**settings: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",  # training runs there alone so far; only the kernels have a GPU path
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        profiler=NoProfiler(),
        strategy=_strategy(torch.device("cpu")),
        **settings,
    )


def _strategy(device: torch.device) -> LeanStrategy:
    return LeanStrategy(device) if processes() == 1 else AveragingStrategy(device)


class _Stopwatch:
    """Wall and processor time since it was made, s.

    Args:
        spent: both, before.
    """

    def __init__(self, spent: tuple[float, float]) -> None:
        wall, cpu = self._clocks()
        self._start = wall - spent[0], cpu - spent[1]

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
