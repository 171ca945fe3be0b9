"""One process of several that train a tiny model together; `launch` starts them and brings back what the first says."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distill.batch import Batch
from distill.config import OptimizerConfig
from distill.dataset import DataSet
from distill.distributed import (
    batch_of_share,
    is_first,
    process_number,
    processes,
    rows_of_all,
    split_dense,
)
from distill.distributed.gradients import BUCKET, GradientMeans
from distill.module import DistillModule
from distill.protocols import Output
from distill.schedule import DayPlan
from distill.stream import DayStream
from distill.training import DayCallback, DayData, fit
from kernels.embedding import ensure_process_group, sharded
from kernels.table_sharding import Sharding
from tests.distill.tiny_training import Silence, Tiny
from tests.forked import context

BATCH = 8


class Kept:
    """Ids and logits of what was predicted."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []

    def add(self, batch: Batch, output: Output) -> None:
        self.ids.append(batch.example_id.numpy())
        self.logits.append(output.logits.numpy())

    def columns(self) -> dict[str, np.ndarray]:
        return {"example_id": np.concatenate(self.ids), "logits": np.concatenate(self.logits)}


def train_together(
    data: DataSet, clip_norm: float, sharding: Sharding | None = None, split: bool = False
) -> dict[str, np.ndarray]:
    """Train on every day but the last, predicting each next one; what the first process ends with.

    Args:
        data: the data set.
        clip_norm: of the dense gradient; 0 for none.
        sharding: of the tables; None for the usual one.
        split: whether the dense parameters are split among the processes.
    """
    ensure_process_group()
    rank = torch.distributed.get_rank()

    def days(day: int, training: bool) -> DayStream:
        size = batch_of_share(BATCH)
        return DayStream(data, day, size, Tiny.features, shard=rank, num_shards=processes())

    with sharded(sharding or Sharding()):
        model, kept = Tiny(data.schema), Kept()
    if split:
        split_dense(model)
    optimizer = OptimizerConfig(learning_rate=0.01, clip_norm=clip_norm)
    module = DistillModule(model, {}, optimizer, kept)
    plan = DayPlan(
        tuple(range(1, data.schema.n_days)), {day: (day + 1,) for day in range(1, data.schema.n_days)}
    )
    reports = fit(module, DayData(days, plan), DayCallback(plan, Silence(), {}, "tiny"))
    state = {f"state/{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    losses = np.array([report.means["loss_labels"] for report in reports])
    seen = np.array([report.examples_seen for report in reports])
    return (
        state
        | rows_of_all(kept.columns())
        | {"losses": losses, "seen": seen, "steps": np.array(module.steps)}
    )


def launch(number: int, folder: Path, out: Path, *settings: Any) -> dict[str, np.ndarray]:
    """What `number` processes end with; the settings are those of `train_together`."""
    run_together(number, _train_and_keep, folder, out, *settings)
    with np.load(out) as arrays:
        return dict(arrays)


def run_together(number: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call a module-level function in each of `number` processes of one group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    forked = context()
    started = [
        forked.Process(target=_one_of, args=(rank, number, address, function, arguments))
        for rank in range(number)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * number


def _one_of(
    rank: int, number: int, address: str, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=number)
    function(*arguments)
    torch.distributed.destroy_process_group()  # left standing, gloo's threads abort the process at its end


def uneven_gradients() -> np.ndarray:
    """Means of gradients of which every process has one, the last process alone has one, and nobody has one (NaN)."""
    everywhere, somewhere, nowhere = (nn.Parameter(torch.zeros(BUCKET)) for _ in range(3))
    means = GradientMeans([everywhere, somewhere, nowhere])
    value = process_number() + 1.0
    loss = value * everywhere.sum()
    if value == processes():
        loss = loss + value * somewhere.sum()
    loss.backward()
    means.end()
    means.close()
    found = [parameter.grad for parameter in (everywhere, somewhere, nowhere)]
    return np.array([float("nan") if mean is None else mean.unique().item() for mean in found])


def _train_and_keep(folder: Path, out: Path, *settings: Any) -> None:
    found = train_together(DataSet.open(folder), *settings) | {"uneven": uneven_gradients()}
    if is_first():
        np.savez(out, **found)  # type: ignore[arg-type]
