"""Processes that are made to fail, and what is left of their work: the tools of `experiments.benchmarks.chaos`."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

SECONDS = 300
"""No command takes longer; one that does hangs."""

SOONER = 0.7
"""Share of a moment at which it is tried again, when the command was faster than before and had ended by then."""

_LEFT = (".parquet", ".safetensors", ".csv")
"""What a later step or a reader takes from a folder."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; minus the signal that killed it.
        printed: all that it printed.
        seconds: that it ran.
    """

    code: int
    printed: str
    seconds: float


def run(
    arguments: Sequence[str],
    log: Path,
    signal_after: float | None = None,
    number: int = signal.SIGKILL,
    largest_file: int | None = None,
) -> Ended:
    """Run `distill` in a process of its own.

    Args:
        arguments: of the command.
        log: file that gets what it prints.
        signal_after: seconds after which it gets a signal, unless it has ended; None for never.
        number: the signal.
        largest_file: bytes at which the system refuses to write on, as it does on a full disk; None for no limit.

    Raises:
        TimeoutError: it hangs.
    """
    return started(command, (list(arguments), log, largest_file), signal_after, number)


def started(
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    signal_after: float | None = None,
    number: int = signal.SIGKILL,
) -> Ended:
    """Call a module-level function in a process of its own, which has the imports of `distill` behind it already.

    Args:
        function: like `command`.
        arguments: its own; one of them is the file that gets what it prints.
        signal_after, number: as of `run`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.pipeline.run", "experiments.catalog"])
    process = context.Process(target=function, args=arguments)
    began = time.monotonic()
    process.start()
    if signal_after is not None:
        process.join(signal_after)
        if process.pid is not None and process.exitcode is None:
            os.kill(process.pid, number)
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{function.__name__}{arguments}: not ended after {SECONDS} s")
    (log,) = (argument for argument in arguments if isinstance(argument, Path))
    return Ended(process.exitcode, log.read_text() if log.is_file() else "", time.monotonic() - began)


def command(arguments: list[str], log: Path, largest_file: int | None = None) -> None:
    """Be `distill`: a command whose words go to a file. Does not return."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from experiments.__main__ import main

    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.exit(main(arguments))


def family(pid: int) -> list[int]:
    """A process, and all that it and those below it have started: the nearer ones first, then the older ones."""
    found = [pid]
    for parent in found:
        found += _children(parent)
    return found


def _children(pid: int) -> list[int]:
    """Processes that any thread of a process has started; none where it has ended."""
    try:
        lists = [(thread / "children").read_text() for thread in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return sorted(int(child) for text in lists for child in text.split())


def alive(pid: int) -> bool:
    """True while a process runs; not when it has ended and only its exit code waits to be asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def put_back(stage: Path, folder: Path) -> None:
    """Make `folder` what `stage` is, times of the files included."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(stage, folder, symlinks=True)


def content(folder: Path) -> dict[str, str]:
    """What others would read of a folder: name below it to sha256; half-written files and checkpoints left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix in _LEFT)
    return {
        str(path.relative_to(folder)): hashlib.sha256(_bytes(path)).hexdigest()
        for path in files
        if not path.name.startswith(".")
    }


def _bytes(path: Path) -> bytes:
    """Of a table without the commit that a line was made by, which may be another one by now."""
    if path.suffix != ".csv":
        return path.read_bytes()
    with path.open(newline="") as file:
        lines = [{key: line[key] for key in line if key != "git_commit"} for line in csv.DictReader(file)]
    return json.dumps(lines).encode()


def rows(folder: Path, expected: Path) -> tuple[int, int]:
    """Rows that are missing in a folder's Parquet files, and rows too many.

    Args:
        folder: what is looked at.
        expected: the same of an undisturbed run.
    """
    lost = doubled = 0
    for path in expected.rglob("*.parquet"):
        wanted = _ids(path)
        place = folder / path.relative_to(expected)
        found = _ids(place) if place.is_file() else wanted[:0]
        once = np.unique(found)
        lost += len(np.setdiff1d(wanted, once))
        doubled += len(found) - len(once)
    return lost, doubled


def _ids(path: Path) -> np.ndarray:
    """What tells the rows of a file apart: an example stands once in a day of a log and in a model's predictions."""
    return pq.read_table(path, columns=["example_id"]).column("example_id").to_numpy()
