"""Faults that are no kill: full disks, files that cannot be read, parts cut short, flipped bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.benchmarks.chaos import Chaos, Component, Row
from experiments.benchmarks.victims import run

Undo = Callable[[], None]

UNREADABLE = Path("/proc/self/mem")
"""A file whose first byte the system cannot read: an input/output error, whoever asks."""

LOG = "teacher_log/0/lag-1/day-0004.parquet"
SNAPSHOT = "teacher/0/snapshots/day-0002.safetensors"


def faults(chaos: Chaos, components: dict[str, Component]) -> Iterator[Row]:
    """Every fault of every component that is given."""
    if teacher := components.get("teacher"):
        for size in (1_000, 10_000, 30_000):
            yield _full(chaos, teacher, size)
        for share in (0.5, 0.8):
            yield _flipped_checkpoint(chaos, teacher, share)
    if log := components.get("log"):
        yield _full(chaos, log, 5_000)
        yield chaos.damaged(log, "read error", "snapshot", lambda folder: _unreadable(folder / SNAPSHOT))
        yield flipped_snapshot(chaos, log)
        yield chaos.damaged(
            log, "truncated", "log part", lambda folder: _cut(_with(log, folder) / LOG), refused=False
        )
        yield chaos.damaged(
            log, "flipped byte", "log part", lambda folder: _flip(_with(log, folder) / LOG), refused=False
        )
    for name in ("students", "bank"):
        if students := components.get(name):
            yield _full(chaos, students, 5_000)
            yield chaos.damaged(students, "read error", "log part", lambda folder: _unreadable(folder / LOG))
            yield chaos.damaged(students, "truncated", "log part", lambda f: _cut(f / LOG), ("log",))
            yield chaos.damaged(students, "flipped byte", "log part", lambda f: _flip(f / LOG), ("log",))


def flipped_snapshot(chaos: Chaos, log: Component) -> Row:
    """Flip a byte of a finished snapshot; the log refuses it by name, and the teacher is trained again without it."""

    def damage(folder: Path) -> Undo:
        path = folder / SNAPSHOT
        _flip(path)
        return path.unlink

    return chaos.damaged(log, "flipped byte", "snapshot", damage, ("teacher",))


def _full(chaos: Chaos, component: Component, size: int) -> Row:
    return chaos.damaged(
        component, "disk full", f"files end at {size} bytes", lambda folder: None, largest_file=size
    )


def _flipped_checkpoint(chaos: Chaos, component: Component, share: float) -> Row:
    """Kill the command, flip a byte of the newest checkpoint, and let it go on."""

    def damage(folder: Path) -> None:
        run(component.arguments, chaos.log, share * component.seconds)
        steps = sorted(folder.rglob("unfinished/step-*/training/*.safetensors"))
        if steps:
            _flip(steps[-1])

    return chaos.damaged(component, "flipped byte", f"newest checkpoint at {share}", damage, refused=False)


def _with(component: Component, folder: Path) -> Path:
    """The component's work in its place already."""
    shutil.copytree(component.after, folder, dirs_exist_ok=True)
    return folder


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def _unreadable(path: Path) -> Undo:
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.symlink_to(UNREADABLE)

    def undo() -> None:
        aside.replace(path)

    return undo
