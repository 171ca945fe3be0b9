"""`distill` in a process of its own, waiting for what it does, and for its own processes to be gone."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from tests.forked import context

SECONDS = 120
"""Longest wait."""


class Running(Protocol):
    """What is asked of a process, be it a `subprocess.Popen` or a `Forked`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]: ...


class Forked:
    """`distill` in a session of its own, with the imports behind it already: they take longer than what is tested.

    Args:
        arguments: of the command.
        folder: gets what it prints; to be made.
    """

    def __init__(self, arguments: list[str], folder: Path):
        folder.mkdir()
        self._printed = folder / "stdout", folder / "stderr"
        self._process = context().Process(target=_run, args=(arguments, self._printed))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        out, err = (path.read_text() for path in self._printed)
        return out, err


def _run(arguments: list[str], printed: tuple[Path, Path]) -> None:
    os.setsid()
    # The server, and so what it forks, may have been told to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(printed, start=1):
        with path.open("w") as file:
            os.dup2(file.fileno(), number)
    from experiments.__main__ import main

    sys.exit(main(arguments))


def wait_for(happened: Callable[[], bool], process: Running, what: str) -> None:
    """Wait until something has happened, which the process is to do before it ends."""
    end = time.monotonic() + SECONDS
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{what} did not appear"
        time.sleep(0.005)


def alive(session: int) -> Iterator[str]:
    """Command lines of the processes of a session, dead ones left out."""
    for entry in Path("/proc").iterdir():
        try:
            state, _, _, of_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if entry.name.isdigit() and int(of_session) == session and state != "Z":
                yield (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):  # no process, or one that has just ended
            continue


def wait_until_nobody_is_left(session: int) -> None:
    """Wait until no process of a session is alive."""
    end = time.monotonic() + 20
    while left := list(alive(session)):
        assert time.monotonic() < end, left
        time.sleep(0.05)
