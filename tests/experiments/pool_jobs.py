"""Jobs for the pool: functions that another process can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from distill.errors import DataError
from distill.files import atomic_path
from distill.progress import Progress


def write(path: Path, examples: int, progress: Progress) -> None:
    """Write a file, counting some examples."""
    with progress.task("write") as bar:
        bar.advance(examples)
    path.write_text("done")


def train(folder: Path, name: str, progress: Progress) -> None:
    """Read 10 of 40 examples, then wait until it may end."""
    with progress.task(f"student {name}", total=40, unit="examples") as bar:
        bar.advance(10, NE=0.5)
        bar.advance(0, MFU="1.0 %")
        (folder / f"begun-{name}").write_text("")
        _wait(folder / "end")


def refuse(folder: Path, progress: Progress) -> None:
    """Raise, once the other job has begun."""
    _wait(folder / "begun")
    raise DataError(f"{folder.name}: the label is 7")


def write_slowly(folder: Path, seconds: float, progress: Progress) -> None:
    """Write a file that takes its time, and say when it has begun."""
    with atomic_path(folder / "slow") as temporary:
        temporary.write_text("half")
        (folder / "begun").write_text("")
        time.sleep(seconds)


def die(progress: Progress) -> None:
    """End as a process that the system kills for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


def tell_and_wait(path: Path, progress: Progress) -> None:
    """Write the number of this process, then wait for its end."""
    with atomic_path(path) as temporary:
        temporary.write_text(str(os.getpid()))
    time.sleep(600)
