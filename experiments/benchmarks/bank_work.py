"""Data, teacher log and students that the benchmark of banks trains on (experiments/benchmarks/bank.py)."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import experiments.catalog  # noqa: F401  fills the registries
from adapters import auxiliary_head
from adapters.config import AuxiliaryHeadConfig
from distill.batch import Batch
from distill.config import DataConfig, OptimizerConfig
from distill.dataset import DataSet, prepare
from distill.log_files import LogManifest
from distill.module import DistillModule
from distill.progress import progress_on
from distill.protocols import Output
from distill.schedule import DayPlan
from distill.stream import DayStream
from distill.teacher_log import TeacherLog, write_day
from distill.training import DayCallback, DayData, fit
from students import deepfm
from students.bank import Bank, BankModule, Member
from students.config import DeepFMConfig

DATA = DataConfig(options={"days": 4, "rows_per_day": 12_000, "users": 12000, "items": 4000})
HISTORY = 50
PLAN = DayPlan((2, 3), {2: (), 3: ()})
"""Day 1 has no history and no teacher yet."""


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


class Work:
    """Data, teacher log and students of one measurement.

    Args:
        network: widths of the MLP, such as `64-32`.
        batch: examples a step.
        folder: of the data set and the teacher log, which are made where they are not there.
    """

    def __init__(self, network: str, batch: int, folder: Path):
        self.data = prepare(replace(DATA, cache=str(folder)), progress_on())
        self.network, self.settings = network, OptimizerConfig(batch_size=batch)
        self.log = _log(self.data, folder / "log")

    def make(self, seed: int) -> Member:
        """A student and its channel."""
        schema = self.data.schema
        student = deepfm.build(
            DeepFMConfig(mlp=[int(width) for width in self.network.split("-")], history_length=HISTORY),
            schema=schema,
            tasks=schema.task_names,
            features=tuple(schema.sparse),
            dense_features=schema.dense,
            seed=seed,
            table_learning_rate=self.settings.table_learning_rate,
        )
        channel = auxiliary_head.build(AuxiliaryHeadConfig(), schema=schema, seed=seed)
        channel.attach(student)
        return Member(student, {"ah": channel}, self.settings)

    def stream(self, day: int, training: bool) -> DayStream:
        """A day of one surface."""
        schema = self.data.schema
        return DayStream(
            self.data,
            day,
            self.settings.batch_size,
            tuple(schema.sparse),
            schema.dense,
            history_length=HISTORY,
            domains=schema.verticals[:1],
            teacher=self.log,
        )

    def separate(self) -> float:
        """Processor time of one student, s."""
        member = self.make(0)
        return self._fit(DistillModule(member.model, member.channels, member.optimizer, _Nobody()))

    def bank(self, members: int, most: int) -> float:
        """Processor time of all members, s."""
        makes = [partial(self.make, seed) for seed in range(members)]
        banks = [Bank(makes[start : start + most]) for start in range(0, members, most)]
        return self._fit(BankModule(banks, [[_Nobody()] * bank.size for bank in banks]))

    def products(self, repeats: int) -> float:
        """Processor time of the matrix products of one step, s: the shortest of the repeats."""
        member, rows = self.make(0), self.settings.batch_size
        layers = [layer for part in (member.model, *member.channels.values()) for layer in part.modules()]
        weights = [layer.weight.detach() for layer in layers if isinstance(layer, nn.Linear)]
        data = [(torch.randn(rows, w.size(1)), torch.randn(rows, w.size(0)), w) for w in weights]
        times = []
        for _ in range(repeats):
            start = time.process_time()
            for x, gradient, weight in data:
                _ = x @ weight.t(), gradient @ weight, gradient.t() @ x
            times.append(time.process_time() - start)
        return min(times)

    def steps(self) -> int:
        """Steps of one student."""
        return sum(len(self.stream(day, True)) for day in PLAN.train)

    def _fit(self, module: DistillModule) -> float:
        reports = fit(module, DayData(self.stream, PLAN), DayCallback(PLAN, _Silence(), {}, "bank"))
        return sum(report.cpu_seconds for report in reports)


def _log(data: DataSet, folder: Path) -> TeacherLog:
    """A teacher's log of random logits."""
    draw, tasks = np.random.default_rng(0), data.schema.task_names
    for day in () if folder.exists() else PLAN.train:
        ids = data.outcomes(day).example_id
        manifest = LogManifest(
            "none", "0" * 64, 1, day, 0, data.fingerprint, data.schema.name, list(tasks), 0
        )
        write_day(folder, ids, draw.normal(size=(len(ids), len(tasks))).astype(np.float32), manifest)
    return TeacherLog(folder, tasks, tasks, data.fingerprint, dict.fromkeys(PLAN.train, 1))
