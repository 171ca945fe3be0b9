"""Waiting for what a process does, and for its own processes to be gone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 120
"""Longest wait."""


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
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
