"""Our students for the peers' work, and their streams; shared by the runners of ours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.config import OptimizerConfig, StudentConfig
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
from experiments.pipeline.build import build_model
from experiments.pipeline.jobs import first_rates
from students.base import Student

OPTIONS = {
    "deepfm": {"dim": DIM, "mlp": list(MLP)},
    "dcn_v2": {"dim": DIM, "mlp": list(MLP), "cross_layers": CROSS_LAYERS, "cross_rank": 0},
    # What is known of an event beside its item is no field of the others.
    "din": {
        "dim": DIM,
        "mlp": list(MLP),
        "attention": list(ATTENTION),
        "event_context": False,
        "history_length": HISTORY_LENGTH,
    },
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
    """The student as an experiment builds it, its bias at the first day's rate."""
    import experiments.catalog  # noqa: F401  fills the registries

    config = StudentConfig(
        architecture=task.model, options=OPTIONS[task.model], tasks=[TASK], features=list(FIELDS)
    )
    student = build_model("student", config, optimizer(task), data.schema, 0, Path())
    assert isinstance(student, Student)
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
