"""One process of those that train together in the benchmark of processes (experiments/benchmarks/processes.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import IterableDataset

import experiments.catalog  # noqa: F401  fills the registries
from distill.batch import Batch
from distill.config import DataConfig
from distill.dataset import DataSet, prepare
from distill.distributed import is_first, process_number, processes, split_dense
from distill.load_config import load_teacher
from distill.module import DistillModule
from distill.progress import progress_on
from distill.protocols import Architecture, Output
from distill.schedule import DayPlan
from distill.stream import DayStream
from distill.training import DayCallback, DayData, DayReport, fit
from experiments.pipeline.build import build_model
from kernels.embedding import ensure_process_group, sharded
from kernels.table_sharding import Sharding

DATA = DataConfig(options={"days": 3, "rows_per_day": 12_000, "users": 12000, "items": 4000})
TEACHER = Path(__file__).parents[1] / "teachers" / "gem-m.yaml"
PLAN = DayPlan((2, 3), {2: (), 3: ()})
"""Day 1 has no history; day 2 warms up, day 3 is timed."""


@dataclass(frozen=True)
class Sharing:
    """Of `distill.config.ShardingConfig`, the same fields."""

    tables: str
    dense: str


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


def measure_here(sharing: Sharing, batch: int, folder: Path) -> None:
    """Train as one of torchrun's processes; the first one prints rows, seconds and processor seconds of
    all on the last day.

    Args:
        sharing: how the processes share the model.
        batch: rows a step of this process.
        folder: of the data set, which the first process makes where it is not there.
    """
    torch.set_num_threads(1)
    ensure_process_group()
    data = _prepared(folder)
    last = _trained(sharing, data, batch)[-1]
    spent = torch.tensor([last.cpu_seconds])
    dist.all_reduce(spent)
    if is_first():
        rows = last.examples_per_s * last.seconds
        print(json.dumps({"rows": rows, "seconds": last.seconds, "cpu_seconds": spent.item()}))
    dist.destroy_process_group()


def _prepared(folder: Path) -> DataSet:
    """The data set; the others wait for the first."""
    config = replace(DATA, cache=str(folder))
    if is_first():
        prepare(config, progress_on())
    dist.barrier()
    return prepare(config, progress_on())


def _trained(sharing: Sharing, data: DataSet, batch: int) -> Sequence[DayReport]:
    model = _teacher(sharing, data)

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


def _teacher(sharing: Sharing, data: DataSet) -> Architecture:
    config = load_teacher(TEACHER)
    with sharded(Sharding(sharing.tables)):
        model = build_model("teacher", config, config.optimizer, data.schema, 0, TEACHER.parent)
    if sharing.dense == "fsdp2" and processes() > 1:
        split_dense(model)
    return model
