"""One process of those that train in the benchmark of processes (experiments/benchmarks/processes.py)."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import IterableDataset

import experiments.catalog  # noqa: F401  fills the registries
from distill.batch import Batch
from distill.config import DataConfig
from distill.dataset import DataSet, prepare
from distill.distributed import process_number, processes, split_dense
from distill.load_config import load_teacher
from distill.module import DistillModule
from distill.progress import progress_on
from distill.protocols import Architecture, Output
from distill.schedule import DayPlan
from distill.stream import DayStream
from distill.training import DayCallback, DayData, DayReport, fit
from experiments.pipeline.build import build_model
from experiments.pipeline.torchrun import Meeting
from kernels.embedding import sharded
from kernels.table_sharding import Sharding

DATA = DataConfig(options={"days": 3, "rows_per_day": 12_000, "users": 12000, "items": 4000})
TEACHER = Path(__file__).parents[1] / "teachers" / "gem-m.yaml"
PLAN = DayPlan((2, 3), {2: (), 3: ()})
"""Day 1 has no history; day 2 warms up, day 3 is timed."""
_LONGEST = timedelta(minutes=10)
"""Wait for the other processes."""


@dataclass(frozen=True)
class Form:
    """How a training is done.

    Attributes:
        processes: number of them.
        tables, dense: of `distill.config.ShardingConfig`; empty where nothing is shared.
        apart: each of the processes trains a model of its own, at the same time as the others.
    """

    processes: int
    tables: str = ""
    dense: str = ""
    apart: bool = False


Figures = dict[str, float]
"""Rows of all processes on the timed day, their mean wall time and the sum of their processor time, s."""


class _Silence:
    """Progress that shows nothing."""

    def task(self, *arguments: Any, **names: Any) -> Any:
        return nullcontext(self)

    def advance(self, *arguments: Any, **names: Any) -> None:
        """Nothing."""


class _Nobody:
    """A recorder of nothing."""

    def add(self, batch: Batch, output: Output) -> None:
        """Nothing."""


def measure_here(forms: Sequence[Form], batch: int, folder: Path) -> None:
    """Train in all of the forms, one after the other, as one of torchrun's processes; the first one prints the figures
    of each.

    Args:
        forms: in their order; processes beyond a form's number wait meanwhile.
        batch: rows a step of this process.
        folder: of the data set, which the first process makes.
    """
    torch.set_num_threads(1)
    meeting = Meeting.taken()
    store = meeting.store()
    store.set_timeout(_LONGEST)
    data = _prepared(folder, meeting, store)
    for number, form in enumerate(forms):
        if meeting.rank < form.processes:
            own = _measured(form, number, data, batch, meeting, store)
            store.set(f"{number}/{meeting.rank}", json.dumps(own))
        keys = [f"{number}/{rank}" for rank in range(form.processes)]
        store.wait(keys)
        if meeting.rank == 0:
            print(json.dumps(total(form, [json.loads(store.get(key)) for key in keys])), flush=True)


def total(form: Form, of_each: Sequence[Figures]) -> Figures:
    """Figures of a form, from those of its processes; who trains together counts the rows of all."""
    rows = [figures["rows"] for figures in of_each]
    return {
        "rows": sum(rows) if form.apart else rows[0],
        "seconds": sum(figures["seconds"] for figures in of_each) / len(of_each),
        "cpu_seconds": sum(figures["cpu_seconds"] for figures in of_each),
    }


def _prepared(folder: Path, meeting: Meeting, store: dist.Store) -> DataSet:
    """The data set; the others wait for the first."""
    config = replace(DATA, cache=str(folder))
    if meeting.rank == 0:
        prepare(config, progress_on())
        store.set("prepared", "")
    store.wait(["prepared"])
    return prepare(config, progress_on())


def _measured(
    form: Form, number: int, data: DataSet, batch: int, meeting: Meeting, store: dist.Store
) -> Figures:
    """This process's part of a form."""
    gc.collect()  # Lightning's trainer lies in cycles: the tables of the form before would stay
    name, rank, world = "all", meeting.rank, form.processes
    if form.apart or form.processes == 1:
        name, rank, world = str(meeting.rank), 0, 1
    group = dist.PrefixStore(f"group/{number}/{name}", store)
    dist.init_process_group("gloo", store=group, rank=rank, world_size=world)
    try:
        last = _trained(form, data, batch)[-1]
        return {
            "rows": last.examples_per_s * last.seconds,
            "seconds": last.seconds,
            "cpu_seconds": last.cpu_seconds,
        }
    finally:
        dist.destroy_process_group()


def _trained(form: Form, data: DataSet, batch: int) -> Sequence[DayReport]:
    model = _teacher(form, data)

    def days(day: int, training: bool) -> IterableDataset:
        return DayStream(
            data,
            day,
            batch,
            model.features,
            model.dense_features,
            history_length=model.history_length,
            shard=process_number(),
            num_shards=processes(),
        )

    module = DistillModule(model, {}, load_teacher(TEACHER).optimizer, _Nobody())
    return fit(module, DayData(days, PLAN), DayCallback(PLAN, _Silence(), {}, "processes"))


def _teacher(form: Form, data: DataSet) -> Architecture:
    config = load_teacher(TEACHER)
    with sharded(Sharding(form.tables) if form.tables else Sharding()):
        model = build_model("teacher", config, config.optimizer, data.schema, 0, TEACHER.parent)
    if form.dense == "fsdp2" and processes() > 1:
        split_dense(model)
    return model
