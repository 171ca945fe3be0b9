"""A tiny architecture, channels that watch what happens, and a few days of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.config import OptimizerConfig
from distill.dataset import DataSet
from distill.module import DistillModule
from distill.protocols import Architecture, Channel, Output
from distill.schedule import DayPlan
from distill.schema import FeatureSchema
from distill.seeding import seeded
from distill.stream import DayStream
from distill.training import DayCallback, DayData, DayReport, fit
from kernels.embedding import EmbeddingTables

WIDTH = 3


class Tiny(Architecture):
    """Two tables, one hidden layer, one serving head; `watch` is called with every batch.

    Args:
        schema: of the data set.
        seed: of the initial values.
        watch: (batch, True in training) -> what is added to the logits, if anything.
    """

    features = ("user_id", "item_id")
    tap_widths = {"penultimate": WIDTH}

    def __init__(
        self,
        schema: FeatureSchema,
        seed: int = 0,
        dropout: float = 0.0,
        watch: Callable[[Batch, bool], Tensor | float] = lambda batch, training: 0.0,
    ):
        super().__init__()
        self.schema, self.tasks, self.watch = schema, schema.task_names, watch
        sizes = {name: schema.sparse[name].size for name in self.features}
        self.tables = EmbeddingTables(sizes, dim=4, seed=seed, learning_rate=0.1, init_std=0.5)
        with seeded(seed, "student"):
            self.hidden = nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh(), nn.Dropout(dropout))
            self.head = nn.Linear(WIDTH, len(self.tasks))

    def forward(self, batch: Batch) -> Output:
        hidden = self.hidden(self.tables(batch.sparse).features.flatten(1))
        return Output(self.head(hidden) + self.watch(batch, self.training), {"penultimate": hidden})

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        raise AssertionError("not trained by the pipeline")


class Own(Channel):
    """w * mean((head(tap) - 1)^2) with a head of its own that reads the student's tap."""

    needs = frozenset()

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight, self.calls = weight, list[str]()

    def attach(self, student: Architecture) -> None:
        with seeded(0, "channel.own"):
            self.head = nn.Linear(student.tap_widths["penultimate"], 1)

    def step(self, output: Output, batch: Batch) -> None:
        self.calls.append("step")

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls.append("loss")
        loss = (self.head(output.taps["penultimate"]) - 1).square().mean()
        return self.weight * loss, {"loss": loss.detach()}


class Memory:
    """Keeps the predictions of every day.

    Attributes:
        days: day -> logits [rows, K].
    """

    def __init__(self) -> None:
        self.days: dict[int, Tensor] = {}

    def add(self, batch: Batch, output: Output) -> None:
        logits = output.logits
        rows = [logits.clone()] if batch.day not in self.days else [self.days[batch.day], logits]
        self.days[batch.day] = torch.cat(rows)


class Silence:
    """Progress that shows nothing."""

    def task(self, title: str, total: int | None = None, unit: str = "") -> Any:
        return nullcontext(self)

    def advance(self, amount: int = 1, **shown: Any) -> None:
        """Nothing."""


def one_by_one(days: int) -> DayPlan:
    """Progressive: trained on all days but the last, each next day predicted."""
    return DayPlan(tuple(range(1, days)), {day: (day + 1,) for day in range(1, days)})


def days_of(data: DataSet, batch_size: int = 4) -> Callable[[int, bool], IterableDataset]:
    """What `DayData` asks for."""
    return lambda day, training: DayStream(data, day, batch_size, Tiny.features)


def train(
    model: Architecture,
    data: DataSet,
    plan: DayPlan,
    channels: Sequence[Channel] = (),
    after_day: Callable[[int], None] = lambda day: None,
    **settings: Any,
) -> tuple[Memory, list[DayReport]]:
    """Train through the plan with the real trainer, seeded as the pipeline does; batches of 4."""
    for channel in channels:
        channel.attach(model)
    named = {type(channel).__name__.lower(): channel for channel in channels}
    memory = Memory()
    module = DistillModule(model, named, OptimizerConfig(learning_rate=0.05, **settings), memory)
    callback = DayCallback(plan, Silence(), {}, "tiny", after_day)
    with seeded(0, "training"):
        return memory, fit(module, DayData(days_of(data), plan), callback)


def state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters, tables and moments, copied."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that are not bit-identical."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}
