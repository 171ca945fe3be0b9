"""Our student without Lightning: the same stream, module and optimiser in a bare loop."""

from __future__ import annotations

import numpy as np
import torch

from distill.module import DistillModule
from experiments.benchmarks.peers.harness import Clock, Task, main
from experiments.benchmarks.peers.ours import Scores
from experiments.benchmarks.peers.student import TimedDay, build_student, open_data, open_day, optimizer


def train(task: Task, clock: Clock) -> np.ndarray:
    """One pass over the days; the evaluation days are predicted after it."""
    data, days = open_data(task), task.description.train_days
    if task.steps is not None:
        days = days[:1]
    student = build_student(task, data)
    scores = Scores(task.description.evaluation_days)
    module = DistillModule(student, {}, optimizer(task), scores)
    adam = module.configure_optimizers()
    for day in days:
        with clock.reading():
            stream = open_day(data, day, student)
        for step, batch in enumerate(TimedDay(stream, clock, task.steps)):
            adam.zero_grad()
            module.backward(module.training_step(batch, step))
            adam.step()
    clock.stop()
    student.eval()
    with torch.no_grad():
        for day in task.description.evaluation_days:
            for batch in TimedDay(open_day(data, day, student), None, task.steps):
                scores.add(batch, student(batch))
    return np.concatenate(scores.logits)


if __name__ == "__main__":
    main("gem-distill", train)
