"""Jobs for Ray: functions that its workers can import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from distill.errors import DataError
from distill.files import atomic_path
from distill.progress import Progress


def lost_once(folder: Path, job: Callable[..., None], *arguments: object, progress: Progress) -> None:
    """A job whose worker is killed at the first attempt."""
    with progress.task("lost once") as bar:
        bar.advance(1_000)
    if not (folder / "lost").exists():
        (folder / "lost").write_text(str(os.getpid()))
        _die()
    (folder / "done").write_text(str(os.getpid()))
    job(*arguments, progress=progress)


def lost_always(folder: Path, progress: Progress) -> None:
    """Count the attempts."""
    with (folder / "attempts").open("a") as file:
        file.write("x")
    _die()


def write(path: Path, progress: Progress) -> None:
    """Write the process that did it."""
    path.write_text(str(os.getpid()))


def refuse(name: str, progress: Progress) -> None:
    """Raise an error of one's own."""
    raise DataError(f"{name}: the label is 7")


def write_slowly(folder: Path, progress: Progress) -> None:
    """Write a file that takes its time, and say when it has begun."""
    with atomic_path(folder / "slow") as temporary:
        temporary.write_text("half")
        (folder / "begun").write_text("")
        for _ in range(2_400):  # Ray interrupts between two instructions, not within a long sleep
            time.sleep(0.05)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal comes within it
