"""What a student costs in a bank, beside the same students trained one by one from the same teacher log.

    python -m experiments.benchmarks.bank [--members 1 4 16 64 256] [--networks 64-32 256-128] [--save]

A DeepFM with a pooled history and an auxiliary head learns from stream, history store and teacher log through the real
trainer; nothing is predicted. Each line is measured in processes of its own, on one thread:

cpu_seconds_bank      processor time of all members as banks of at most --most
cpu_seconds_separate  processor time of one student through the same days, times members
ratio                 of the two: how many times cheaper the bank is
ceiling               a separate step over its dense arithmetic alone, the matrix products of its layers, forward and
                      backward: the ratio of a bank in which all else were free
peak_mib              most memory of the bank's process
peak_mib_separate     most memory of one student's process
included              training: the days' steps alone, the shortest of the repeats. command: the whole process, from the
                      start of Python on; the data set is simulated and the teacher log written in the bank's, and in
                      the first of as many commands as there are students

No figure is printed while the bank's tests are red.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from experiments.benchmarks.bank_work import Work
from experiments.benchmarks.results import machine, save
from experiments.pipeline.environment import ROOT
from experiments.studies.green import tests_pass

TESTED = (
    "tests/kernels/test_wide_tables.py",
    *(
        f"tests/students/test_bank{part}.py"
        for part in ("", "_adapter", "_days", "_fields", "_freezing", "_members", "_rows")
    ),
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
    "peak_mib_separate",
    "included",
)
COMMANDS = 64
"""Students of the lines with start-up."""


def measured(
    options: argparse.Namespace, what: str, network: str, folder: Path, members: int = 1, repeats: int = 1
) -> dict[str, float]:
    """One process: seconds by name (`command` of all of it), and its peak memory in MiB."""
    command = [sys.executable, "-m", "experiments.benchmarks.bank", "--one", what, "--networks", network]
    for name, value in (("batch", options.batch), ("most", options.most), ("folder", folder)):
        command += [f"--{name}", str(value)]
    command += ["--members", str(members), "--repeats", str(repeats)]
    environment, before = os.environ | {"OMP_NUM_THREADS": "1"}, _of_children()
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1]) | {"command": _of_children() - before}


def _of_children() -> float:
    """Processor time of the processes that have ended, s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_here(options: argparse.Namespace) -> dict[str, float]:
    """What `measured` asks of its process."""
    torch.set_num_threads(1)
    work = Work(options.networks[0], options.batch, options.folder)
    run: Callable[[], float] = work.separate
    if options.one == "bank":
        run = partial(work.bank, options.members[0], options.most)
    seconds = []
    for _ in range(options.repeats):
        gc.collect()  # Lightning's trainer lies in cycles: the banks of the last one would count into the memory
        seconds.append(run())
    found = {"training": min(seconds)}
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if options.one == "separate" and options.repeats > 1:  # not a command
        found["products"] = work.steps() * work.products(200)
    return found


def lines(options: argparse.Namespace) -> list[dict[str, object]]:
    """The table; every line is printed when it is there."""
    table = []
    print("".join(f"{name:>21}" for name in COLUMNS))
    with TemporaryDirectory() as folder:
        for network in options.networks:
            for line in (*trainings(options, network, Path(folder)), commands(options, network)):
                table.append(line)
                print("".join(f"{value:>21}" for value in line.values()), flush=True)
    return table


def trainings(options: argparse.Namespace, network: str, folder: Path) -> Iterator[dict[str, object]]:
    """Training alone, for each number of members."""
    repeats = max(options.repeats, 2)
    alone = measured(options, "separate", network, folder, 1, repeats)
    for members in options.members:
        bank = measured(options, "bank", network, folder, members, repeats)
        ceiling = f"{alone['training'] / alone['products']:.2f}"
        yield _line(
            options, network, members, (bank, alone, members * alone["training"]), "training", ceiling
        )


def commands(options: argparse.Namespace, network: str) -> dict[str, object]:
    """64 students as one command, and as 64 of which the first makes the data."""
    with TemporaryDirectory() as fresh, TemporaryDirectory() as other:
        bank = measured(options, "bank", network, Path(fresh), COMMANDS)
        first = measured(options, "separate", network, Path(other))
        alone = measured(options, "separate", network, Path(other))
    together = first["command"] + (COMMANDS - 1) * alone["command"]
    return _line(options, network, COMMANDS, (bank, alone, together), "command", "")


def _line(
    options: argparse.Namespace,
    network: str,
    members: int,
    figures: tuple[dict[str, float], dict[str, float], float],
    included: str,
    ceiling: str,
) -> dict[str, object]:
    """A line of figures: of the bank's process, of one student's, and the seconds of all students one by one."""
    bank, alone, separate = figures
    seconds = (f"{bank[included]:.2f}", f"{separate:.2f}", f"{separate / bank[included]:.2f}")
    peaks = (round(bank["peak_mib"]), round(alone["peak_mib"]))
    values = (members, options.batch, network, *seconds, ceiling, *peaks, included)
    return dict(zip(COLUMNS, values, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, nargs="*", default=[1, 4, 16, 64, 256], help="sizes of banks")
    parser.add_argument("--networks", nargs="*", default=["64-32", "256-128"], help="widths of the MLP")
    parser.add_argument("--batch", type=int, default=128, help="examples per step")
    parser.add_argument("--most", type=int, default=64, help="members that are stepped at once")
    parser.add_argument("--repeats", type=int, default=3, help="trainings per figure")
    parser.add_argument("--save", action="store_true", help="write experiments/results/bank_<machine>.csv")
    parser.add_argument("--one", choices=["separate", "bank"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_here(options)))
        return 0
    if not tests_pass(TESTED):
        print("The bank's tests fail, so there is no figure to show.", file=sys.stderr)
        return 1
    table = lines(options)
    if options.save:
        print(save(f"bank_{machine()}", COLUMNS, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
