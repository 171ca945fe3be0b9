"""The dense network of our student alone: embeddings given, gradients back to them, Adam. An upper limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distill.losses import label_loss
from experiments.benchmarks.peers.harness import Clock, Task, main
from experiments.benchmarks.peers.student import TimedDay, build_student, open_data, open_day, optimizer
from kernels.embedding import Embedded, dense_parameters


def train(task: Task, clock: Clock) -> np.ndarray:
    """One pass over the days, whose batches and embeddings are made while the clock stands."""
    data, days = open_data(task), task.description.train_days
    if task.steps is not None:
        days = days[:1]
    student: Any = build_student(task, data)
    adam = torch.optim.Adam(dense_parameters(student), lr=optimizer(task).learning_rate, fused=True)
    look_up = student.look_up
    for day in days:
        batches = list(TimedDay(open_day(data, day, student), None, task.steps))
        given = {id(batch): _leaf(look_up(batch)) for batch in batches}
        student.look_up = lambda batch, given=given: given[id(batch)]
        clock.start()
        for batch in batches:
            adam.zero_grad()
            output = student(batch)
            index = student.task_index
            label_loss(output.logits, batch.labels[:, index], batch.label_mask[:, index]).backward()
            adam.step()
        clock.stop()
    return np.empty(0)


def _leaf(embedded: Embedded) -> Embedded:
    events = None if embedded.events is None else embedded.events.detach().clone().requires_grad_()
    return Embedded(embedded.features.detach().clone().requires_grad_(), events)


if __name__ == "__main__":
    main("gem-distill", train)
