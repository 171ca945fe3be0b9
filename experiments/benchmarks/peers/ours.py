"""Our student as an experiment trains it: day stream, student, fused tables, Lightning."""

from __future__ import annotations

import sys

import lightning as L
import numpy as np
from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.module import DistillModule
from distill.progress import PlainProgress
from distill.protocols import Output
from distill.schedule import DayPlan
from distill.training import DayCallback, DayData, fit
from experiments.benchmarks.peers.harness import Clock, Task, main
from experiments.benchmarks.peers.student import TimedDay, build_student, open_data, open_day, optimizer


class Scores:
    """Logits of the evaluation days, in the order of the stream."""

    def __init__(self, days: list[int]):
        self.days = days
        self.logits: list[np.ndarray] = []

    def add(self, batch: Batch, output: Output) -> None:
        if batch.day in self.days:
            self.logits.append(output.logits[:, 0].numpy())


class _Callback(DayCallback):
    """Counts FLOPs, once a day, while the clock stands: that is measuring, as its own report sees it too."""

    clock: Clock

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.clock.stop()
        super().on_train_batch_start(trainer, module, batch, batch_idx)
        self.clock.start()


def train(task: Task, clock: Clock) -> np.ndarray:
    """One pass over the days, each predicted before it is trained on, as in an experiment.

    Predicting is not timed. Opening a day's files is, as data.
    """
    data, days = open_data(task), task.description.train_days
    if task.steps is not None:
        days = days[:1]
    student = build_student(task, data)
    scores = Scores(task.description.evaluation_days)
    module = DistillModule(student, {}, optimizer(task), scores)

    def open_stream(day: int, training: bool) -> IterableDataset:
        if not training:
            return TimedDay(open_day(data, day, student), None, task.steps)
        with clock.reading():
            stream = open_day(data, day, student)
        return TimedDay(stream, clock, task.steps)

    plan = DayPlan(
        tuple(days),
        {day: (day + 1,) for day in days[:-1]} | {days[-1]: tuple(task.description.evaluation_days)},
    )
    rows = {day: data.rows_per_day[day] for day in days}
    callback = _Callback(plan, PlainProgress(sys.stderr), rows, task.model, lambda day: clock.stop())
    callback.clock = clock
    fit(module, DayData(open_stream, plan), callback)
    return np.concatenate(scores.logits)


if __name__ == "__main__":
    main("gem-distill", train)
