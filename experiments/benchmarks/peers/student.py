"""Our students for the peers' work, and their streams; shared by the runners of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.config import OptimizerConfig
from distill.dataset import DataSet
from distill.stream import DayStream
from experiments.benchmarks.peers.harness import Clock, Task
from experiments.benchmarks.peers.work import (
    ATTENTION,
    BATCH,
    CROSS_LAYERS,
    DIM,
    FIELDS,
    HISTORY_LENGTH,
    MLP,
    TABLE_RATE_FACTOR,
    TASK,
)
from experiments.pipeline.training import first_rates
from students import dcn_v2, deepfm, din
from students.base import Student
from students.config import DCNv2Config, DeepFMConfig, DINConfig

# What is known of an event beside its item is no field of the others.
STUDENTS: dict[str, tuple[Callable[..., Student], Any]] = {
    "deepfm": (deepfm.build, DeepFMConfig(DIM, list(MLP))),
    "dcn_v2": (dcn_v2.build, DCNv2Config(DIM, CROSS_LAYERS, 0, "parallel", list(MLP))),
    "din": (
        din.build,
        DINConfig(DIM, list(ATTENTION), list(MLP), event_context=False, history_length=HISTORY_LENGTH),
    ),
}


def open_data(task: Task) -> DataSet:
    """The prepared data set that the rows were exported from."""
    data = DataSet.open(task.description.prepared)
    assert data.fingerprint == task.description.fingerprint, f"{data.folder} is not what was exported"
    return data


def optimizer(task: Task) -> OptimizerConfig:
    rate = task.learning_rate
    return OptimizerConfig(batch_size=BATCH, learning_rate=rate, table_learning_rate=TABLE_RATE_FACTOR * rate)


def build_student(task: Task, data: DataSet) -> Student:
    """The student of the fields alone, its bias at the first day's rate."""
    build, config = STUDENTS[task.model]
    student = build(
        config,
        schema=data.schema,
        tasks=(TASK,),
        features=FIELDS,
        dense_features=(),
        seed=0,
        table_learning_rate=optimizer(task).table_learning_rate,
    )
    student.set_base_rates(first_rates(data, task.description.train_days[0], None))
    return student


def open_day(data: DataSet, day: int, student: Student) -> DayStream:
    """A day's stream with what the student reads."""
    return DayStream(data, day, BATCH, student.features, student.dense_features, student.history_length)


class TimedDay(IterableDataset):
    """A day's stream under the clock, at most `steps` batches of it.

    Args:
        stream: the stream.
        clock: counts the time to get batches as data; None for a day that is only predicted.
        steps: None for all.
    """

    def __init__(self, stream: DayStream, clock: Clock | None, steps: int | None):
        self.stream, self.clock, self.steps = stream, clock, steps

    def __len__(self) -> int:
        return min(len(self.stream), self.steps or len(self.stream))

    def __iter__(self) -> Iterator[Batch]:
        batches = islice(self.stream, self.steps)
        return batches if self.clock is None else self.clock.loading(batches)
