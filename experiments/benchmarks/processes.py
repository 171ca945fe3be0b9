"""What more processes bring: rows a second that N of them train a teacher with, one thread each, beside one.

    python -m experiments.benchmarks.processes [--processes 2 4] [--save]

GEM-m learns from simulated data through the real trainer; every process gets the same number of rows a step, so the
work of a core is the same in every line. Each figure is the shortest of the repeats, which take turns, so that what
others do on the machine meets all lines alike.

tables, dense   how the processes share the model (`distill.config.ShardingConfig`); apart: each trains a model of its
                own at the same time as the others, the most that the machine gives
rows_per_s      rows that all processes together train on
speedup         over one process; the bar is 1.5 for two on two cores
cpu_us_per_row  processor time of all processes
waiting         share of the processes' wall time in which they do not compute: for each other, or for a core

No figure is printed while the tests of tables and of training together are red.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.benchmarks.processes_work import Sharing, measure_here
from experiments.benchmarks.results import machine, save
from experiments.pipeline.environment import ROOT
from experiments.studies.green import tests_pass

TESTED = ("tests/kernels/test_embedding_sharding.py", "tests/distill/test_distributed.py")
COLUMNS = ("processes", "tables", "dense", "batch", "rows_per_s", "speedup", "cpu_us_per_row", "waiting")
ALONE = Sharing("row_wise", "ddp")
"""One process holds everything whatever it is."""

APART = Sharing("apart", "")
SHARINGS = (
    APART,
    Sharing("row_wise", "ddp"),
    Sharing("table_wise", "ddp"),
    Sharing("data_parallel", "ddp"),
    Sharing("row_wise", "fsdp2"),
)


def measured(options: argparse.Namespace, number: int, sharing: Sharing, folder: Path) -> dict[str, float]:
    """Rows, seconds and processor seconds of the last day of a training by `number` processes."""
    if sharing == APART:
        return _apart(options, number, folder)
    with _started(options, number, sharing, folder) as process:
        return _figures(process)


def _apart(options: argparse.Namespace, number: int, folder: Path) -> dict[str, float]:
    """All of the processes' rows and processor seconds, the mean of their seconds."""
    with ExitStack() as stack:
        started = [stack.enter_context(_started(options, 1, ALONE, folder)) for _ in range(number)]
        found = [_figures(process) for process in started]
    total = {name: sum(figures[name] for figures in found) for name in found[0]}
    return total | {"seconds": total["seconds"] / number}


def _started(
    options: argparse.Namespace, number: int, sharing: Sharing, folder: Path
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
    command += ["-m", "experiments.benchmarks.processes", "--one", sharing.tables, sharing.dense]
    command += ["--batch", str(options.batch), "--folder", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _figures(process: subprocess.Popen[str]) -> dict[str, float]:
    """What the first process of a training prints last."""
    printed, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return json.loads(printed.splitlines()[-1])


def lines(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The table, one process first."""
    asked = [(1, ALONE)]
    asked += [(number, sharing) for number in options.processes if number > 1 for sharing in SHARINGS]
    found: dict[tuple[int, Sharing], list[dict[str, float]]] = {one: [] for one in asked}
    with TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for one in asked:
                found[one].append(measured(options, *one, Path(folder)))
    fastest = {one: min(figures, key=lambda figure: figure["seconds"]) for one, figures in found.items()}
    alone = _rate(fastest[asked[0]])
    for (number, sharing), figure in fastest.items():
        rate, spent = _rate(figure), figure["cpu_seconds"]
        values = (
            f"{rate:.0f}",
            f"{rate / alone:.2f}",
            f"{1e6 * spent / figure['rows']:.0f}",
            f"{1 - spent / (number * figure['seconds']):.2f}",
        )
        shared = (sharing.tables, sharing.dense) if number > 1 else ("", "")
        yield dict(zip(COLUMNS, (number, *shared, options.batch, *values), strict=True))


def _rate(figure: dict[str, float]) -> float:
    return figure["rows"] / figure["seconds"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="*", default=[2], help="numbers of processes beside 1")
    parser.add_argument("--batch", type=int, default=256, help="rows a step of each process")
    parser.add_argument("--repeats", type=int, default=3, help="trainings per figure")
    parser.add_argument(
        "--save", action="store_true", help="write experiments/results/processes_<machine>.csv"
    )
    parser.add_argument("--one", nargs=2, metavar=("TABLES", "DENSE"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure_here(Sharing(*options.one), options.batch, options.folder)
        return 0
    if not tests_pass(TESTED):
        print("The tests fail, so there is no figure to show.", file=sys.stderr)
        return 1
    table = list(lines(options))
    for line in (dict(zip(COLUMNS, COLUMNS, strict=True)), *table):
        print("".join(f"{value:>16}" for value in line.values()))
    if options.save:
        print(save(f"processes_{machine()}", COLUMNS, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
