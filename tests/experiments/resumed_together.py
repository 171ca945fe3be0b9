"""One process of several that train a tiny model together, are stopped, and go on; tests look at what they leave."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from distill.batch import Batch
from distill.checkpoints import Checkpoints, CheckpointStore
from distill.config import CheckpointConfig, OptimizerConfig
from distill.dataset import DataSet
from distill.distributed import batch_of_share, is_first, process_number, processes, split_dense
from distill.module import DistillModule
from distill.seeding import seeded
from distill.stream import DayStream
from distill.training import DayCallback, DayData, fit
from experiments.pipeline.recorder import PredictionRecorder
from tests.distill.tiny_training import Silence, Tiny, one_by_one

BATCH, DAYS = 8, 4
ROWS = 21
"""Three steps a day, the last one of 5 rows; a day is predicted in three as well."""
STOPS = (5, 13)
"""Batches: one while the second day is predicted, one in the third (FLOPs are counted on a batch of their own)."""

Left = dict[str, np.ndarray]


class Killed(BaseException):
    """Nobody catches it: nothing is put in order."""


def train(
    data: DataSet,
    folder: Path | None = None,
    at: Callable[[int], None] = lambda calls: None,
    dropout: float = 0.0,
    split: bool = False,
) -> Left:
    """Train as one of all processes, with a checkpoint after every step; what the first one ends with.

    Args:
        data: the data set.
        folder: of the checkpoints; None for none.
        at: called before each batch with the number of batches that were read before it.
        dropout: of the model.
        split: whether the dense parameters are split among the processes.
    """
    calls = 0

    def watch(batch: Batch, training: bool) -> float:
        nonlocal calls
        at(calls)
        calls += 1
        return 0.0

    def days(day: int, training: bool) -> DayStream:
        size = batch_of_share(BATCH)
        return DayStream(data, day, size, Tiny.features, shard=process_number(), num_shards=processes())

    model, recorder, plan = (
        Tiny(data.schema, dropout=dropout, watch=watch),
        PredictionRecorder(),
        one_by_one(DAYS),
    )
    if split:
        split_dense(model)
    module = DistillModule(model, {}, OptimizerConfig(learning_rate=0.05), recorder)
    checkpoints = None
    if folder is not None:
        store = CheckpointStore(folder, {"plan": plan.train}, keep=2)
        checkpoints = Checkpoints(store, CheckpointConfig(every_minutes=0, every_batches=1))
    with seeded(0, f"training.{process_number()}"):
        callback = DayCallback(plan, Silence(), {}, "tiny")
        reports = fit(module, DayData(days, plan), callback, checkpoints)
    recorder.take_from_all()
    left = {f"state/{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    left |= {f"rows/{name}": recorder.column(name) for name in ("day", "example_id", "logits")}
    losses = [report.means["loss_labels"] for report in reports]
    return left | {"losses": np.array(losses), "seen": np.array([report.examples_seen for report in reports])}


def stopped(data: DataSet, folder: Path, batch: int, **settings: Any) -> None:
    """Train until a batch, before which all processes are gone."""

    def kill(calls: int) -> None:
        if calls == batch:
            raise Killed

    try:
        train(data, folder, kill, **settings)
    except Killed:
        return
    raise AssertionError(f"trained to the end, before batch {batch}")


def stopped_and_resumed(data: DataSet, folder: Path, batch: int, split: bool = False) -> Left:
    """What is left after a training with dropout was stopped before a batch, and went on."""
    stopped(data, folder, batch, dropout=0.3, split=split)
    return train(data, folder, dropout=0.3, split=split)


def damaged_and_resumed(data: DataSet, folder: Path) -> Left:
    """The same, a byte of the newest checkpoint having changed meanwhile; and what the first process said of it."""
    stopped(data, folder, 3, dropout=0.3)
    if is_first():
        newest = sorted(folder.glob("step-*"))[-1]
        (path,) = newest.glob("process-0001/*.safetensors")
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    dist.barrier()
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("distill.checkpoints.store").addHandler(handler)
    return train(data, folder, dropout=0.3) | {"said": np.array(said)}


def told_to_stop_and_resumed(data: DataSet, folder: Path) -> Left:
    """The same after the second process alone got SIGTERM; and how many steps all had saved by then."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def tell(calls: int) -> None:
        if calls == 1 and not is_first():
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train(data, folder, tell, dropout=0.3)
    except KeyboardInterrupt:
        steps = len(list(folder.glob("step-*")))
        dist.barrier()
        return train(data, folder, dropout=0.3) | {"steps": np.array(steps)}
    raise AssertionError("nobody stopped")


def everything(folder: Path, of_one: Path, out: Path) -> None:
    """All that two processes do together in these tests.

    Args:
        folder: of the data set.
        of_one: checkpoints of one process.
        out: gets what is left, a file each, and the checkpoints `two` of a training that was stopped.
    """
    data = DataSet.open(folder)
    left = {"undisturbed": train(data, dropout=0.3), "from one": train(data, of_one)}
    for batch in STOPS:
        left[f"stopped {batch}"] = stopped_and_resumed(data, out / f"stopped-{batch}", batch)
    left["split"] = train(data, dropout=0.3, split=True)
    left["split, stopped"] = stopped_and_resumed(data, out / "split", STOPS[1], split=True)
    left["damaged"] = damaged_and_resumed(data, out / "damaged")
    left["told"] = told_to_stop_and_resumed(data, out / "told")
    stopped(data, out / "two", 8)
    if is_first():
        for name, arrays in left.items():
            np.savez(out / f"{name}.npz", **arrays)  # type: ignore[arg-type]
