"""What more processes bring: rows a second that N of them train a teacher with, one thread each, beside one.

    python -m experiments.benchmarks.processes [--processes 2 4] [--turns 5] [--save]

GEM-m learns from simulated data through the real trainer; every process gets the same number of rows a step, so the
work of a core is the same in every line. The forms take turns, every other turn backwards, within the same processes,
so that what others do on the machine meets all lines alike. All figures are medians over the turns.

tables, dense     how the processes share the model (`distill.config.ShardingConfig`); apart: each trains a model of its
                  own at the same time as the others, the most that the machine gives
rows_per_s        rows that all processes together train on
speedup           over one process in the same turn, with the least and the greatest of the turns (low, high); the bar
                  is 1.5 for two on two cores
cpu_us_per_row    processor time of all processes
waiting           share of the processes' wall time in which they do not compute: for each other, or for a core

Trainings that share nothing cannot be faster than their number allows. Where their median is, the one process was
slowed by something else, and nothing is saved. No figure is printed while the tests of tables and of training together
are red.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from experiments.benchmarks.processes_work import Figures, Form, measure_here
from experiments.benchmarks.results import machine, save
from experiments.pipeline.environment import ROOT
from experiments.studies.green import tests_pass

TESTED = ("tests/kernels/test_embedding_sharding.py", "tests/distill/test_distributed.py")
COLUMNS = (
    "processes",
    "tables",
    "dense",
    "batch",
    "turns",
    "rows_per_s",
    "speedup",
    "low",
    "high",
    "cpu_us_per_row",
    "waiting",
)
ALONE = Form(1)
SHARED = (("row_wise", "ddp"), ("table_wise", "ddp"), ("data_parallel", "ddp"), ("row_wise", "fsdp2"))
MOST = 1.025
"""Times their number that trainings which share nothing may seem to be faster than one."""


def forms_of(numbers: Sequence[int]) -> list[Form]:
    """The lines of the table, one process first.

    Args:
        numbers: of processes beside 1.
    """
    forms = [ALONE]
    for number in numbers:
        forms += [Form(number, apart=True), *(Form(number, *sharing) for sharing in SHARED)]
    return forms


def in_turns(forms: Sequence[Form], turns: int) -> list[Form]:
    """The forms again and again, every other turn backwards."""
    return [form for turn in range(turns) for form in (forms if turn % 2 == 0 else forms[::-1])]


def measured(options: argparse.Namespace, folder: Path) -> list[Figures]:
    """What the first process of torchrun prints of each form, in the order of the turns."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(max(options.processes)), "-m", "experiments.benchmarks.processes"]
    command += ["--folder", str(folder), "--batch", str(options.batch), "--turns", str(options.turns)]
    command += ["--processes", *map(str, options.processes)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def lines(forms: Sequence[Form], figures: Sequence[Figures], batch: int) -> list[dict[str, Any]]:
    """The table.

    Args:
        forms: as of `forms_of`.
        figures: of the forms in turns.
        batch: rows a step of each process.
    """
    turns = len(figures) // len(forms)
    found: dict[Form, list[Figures]] = {form: [] for form in forms}
    for form, figure in zip(in_turns(forms, turns), figures, strict=True):
        found[form].append(figure)
    return [_line(form, found[form], found[ALONE], batch) for form in forms]


def _line(form: Form, own: Sequence[Figures], alone: Sequence[Figures], batch: int) -> dict[str, Any]:
    ratios = [_rate(figure) / _rate(one) for figure, one in zip(own, alone, strict=True)]
    spent = median(figure["cpu_seconds"] / figure["rows"] for figure in own)
    busy = median(figure["cpu_seconds"] / figure["seconds"] for figure in own) / form.processes
    values = (
        form.processes,
        "apart" if form.apart else form.tables,
        form.dense,
        batch,
        len(own),
        f"{median(map(_rate, own)):.0f}",
        *(f"{of_turns(ratios):.2f}" for of_turns in (median, min, max)),
        f"{1e6 * spent:.0f}",
        f"{1 - busy:.2f}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def _rate(figure: Figures) -> float:
    return figure["rows"] / figure["seconds"]


def impossible(table: Sequence[dict[str, Any]]) -> str | None:
    """What is wrong with a table whose one process was slowed; None where nothing is."""
    for line in table:
        most = MOST * line["processes"]
        if line["tables"] == "apart" and float(line["speedup"]) > most:
            return (
                f"{line['processes']} trainings that share nothing: got {line['speedup']} times one, allowed: up to "
                f"{most:.2f}. The one was slowed by something else: measure again when the machine is idle."
            )
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[2], help="numbers of processes beside 1")
    parser.add_argument("--batch", type=int, default=256, help="rows a step of each process")
    parser.add_argument("--turns", type=int, default=5, help="trainings in each form")
    parser.add_argument(
        "--save", action="store_true", help="write experiments/results/processes_<machine>.csv"
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    forms = forms_of(options.processes)
    if options.folder:  # as one of torchrun's processes
        measure_here(in_turns(forms, options.turns), options.batch, options.folder)
        return 0
    if not tests_pass(TESTED):
        print("The tests fail, so there is no figure to show.", file=sys.stderr)
        return 1
    with TemporaryDirectory() as folder:
        table = lines(forms, measured(options, Path(folder)), options.batch)
    for line in (dict(zip(COLUMNS, COLUMNS, strict=True)), *table):
        print("".join(f"{value:>15}" for value in line.values()))
    problem = impossible(table)
    if problem:
        print(problem, file=sys.stderr)
        return 1
    if options.save:
        print(save(f"processes_{machine()}", COLUMNS, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
