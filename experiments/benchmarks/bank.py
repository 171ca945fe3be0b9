"""What a student costs in a bank, beside the same students trained one by one from the same teacher log.

    python -m experiments.benchmarks.bank [--members 1 4 16 64 256] [--networks 64-32 256-128] [--save]

A DeepFM with a pooled history and an auxiliary head learns from stream, history store and teacher log through the real
trainer; nothing is predicted. Each line is measured in a process of its own, on one thread:

cpu_seconds_bank      processor time of training all members as banks of at most --most, the shortest of the repeats
cpu_seconds_separate  processor time of one student through the same days, the shortest of the repeats, times members
ratio                 of the two: how many times cheaper the bank is
ceiling               a separate step over its dense arithmetic alone, the matrix products of its layers, forward and
                      backward: the ratio of a bank in which all else were free
peak_mib              most memory of the bank's process

No figure is printed while the bank's tests are red.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
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
from experiments.benchmarks.stream import machine
from students import deepfm
from students.bank import Bank, BankModule, Member
from students.config import DeepFMConfig

ROOT = Path(__file__).parents[2]
TESTED = (
    "kernels/test_wide_tables",
    *(f"students/test_bank{part}" for part in ("", "_days", "_freezing", "_members")),
)
COLUMNS = (
    "members",
    "batch",
    "network",
    "cpu_seconds_bank",
    "cpu_seconds_separate",
    "ratio",
    "ceiling",
    "peak_mib",
)
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
        folder: for the teacher log.
    """

    def __init__(self, network: str, batch: int, folder: Path):
        self.data = prepare(DATA, progress_on())
        self.network, self.settings = network, OptimizerConfig(batch_size=batch)
        self.log = _write_log(self.data, folder)

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


def _write_log(data: DataSet, folder: Path) -> TeacherLog:
    """A teacher's log of random logits."""
    draw, tasks = np.random.default_rng(0), data.schema.task_names
    for day in PLAN.train:
        ids = data.outcomes(day).example_id
        manifest = LogManifest(
            "none", "0" * 64, 1, day, 0, data.fingerprint, data.schema.name, list(tasks), 0
        )
        write_day(folder, ids, draw.normal(size=(len(ids), len(tasks))).astype(np.float32), manifest)
    return TeacherLog(folder, tasks, tasks, data.fingerprint, dict.fromkeys(PLAN.train, 1))


def measured(options: argparse.Namespace, what: str, network: str, members: int = 1) -> dict[str, float]:
    """One measurement in a process of its own: seconds by name, and its peak memory in MiB."""
    command = [sys.executable, "-m", "experiments.benchmarks.bank", "--one", what, "--networks", network]
    for name in ("batch", "repeats", "most"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--members", str(members)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(options: argparse.Namespace) -> dict[str, float]:
    """What `measured` asks of its process."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        work = Work(options.networks[0], options.batch, Path(folder))
        run: Callable[[], float] = work.separate
        if options.one == "bank":
            run = partial(work.bank, options.members[0], options.most)
        found = {"seconds": min(run() for _ in range(options.repeats))}
        if options.one == "separate":
            found |= {"products": work.steps() * work.products(200)}
    return found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def lines(options: argparse.Namespace) -> list[dict[str, object]]:
    """The table; every line is printed when it is there."""
    table = []
    print("".join(f"{name:>21}" for name in COLUMNS))
    for network in options.networks:
        alone = measured(options, "separate", network)
        for members in options.members:
            bank, separate = measured(options, "bank", network, members), members * alone["seconds"]
            numbers = (f"{bank['seconds']:.2f}", f"{separate:.2f}", f"{separate / bank['seconds']:.2f}")
            ceiling = f"{alone['seconds'] / alone['products']:.2f}"
            values = (members, options.batch, network, *numbers, ceiling, round(bank["peak_mib"]))
            table.append(dict(zip(COLUMNS, values, strict=True)))
            print("".join(f"{value:>21}" for value in values), flush=True)
    return table


def tests_pass() -> bool:
    """True when the bank's tests are green."""
    tests = [f"tests/{name}.py" for name in TESTED]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT).returncode == 0


def save(table: list[dict[str, object]]) -> Path:
    """Write experiments/results/bank_<machine>.csv."""
    path = ROOT / "experiments" / "results" / f"bank_{machine()}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, nargs="*", default=[1, 4, 16, 64, 256], help="sizes of banks")
    parser.add_argument("--networks", nargs="*", default=["64-32", "256-128"], help="widths of the MLP")
    parser.add_argument("--batch", type=int, default=128, help="examples per step")
    parser.add_argument("--most", type=int, default=32, help="members that are stepped at once")
    parser.add_argument("--repeats", type=int, default=3, help="trainings per figure")
    parser.add_argument("--save", action="store_true", help="write experiments/results/bank_<machine>.csv")
    parser.add_argument("--one", choices=["separate", "bank"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_here(options)))
        return 0
    if not tests_pass():
        print("The bank's tests fail, so there is no figure to show.", file=sys.stderr)
        return 1
    table = lines(options)
    if options.save:
        print(save(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
