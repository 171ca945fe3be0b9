"""What the processes of a pool are at: each writes a slot of shared memory, the process that started them shows all.

A slot has one writer and no lock, so that a process that is stopped or killed leaves nothing locked. What is read while
it is written may be wrong until the next look; nothing but the display depends on it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any

from distill.progress import Progress, Task, passing

_TITLE_BYTES, _UNIT_BYTES = 160, 16
_NO_TOTAL = -1
_NO_NE = math.nan


class _Slot(ctypes.Structure):
    """Of one process: what it counted in all, and the task under way; `task` is 0 when there is none."""

    _fields_ = [
        ("counted", ctypes.c_longlong),
        ("task", ctypes.c_longlong),
        ("done", ctypes.c_longlong),
        ("total", ctypes.c_longlong),
        ("ne", ctypes.c_double),
        ("title", ctypes.c_char * _TITLE_BYTES),
        ("unit", ctypes.c_char * _UNIT_BYTES),
    ]


class Board:
    """The slots; handed to every process of a pool when it starts.

    Args:
        context: of multiprocessing.
        processes: of the pool.
    """

    def __init__(self, context: BaseContext, processes: int):
        self.slots: Any = context.RawArray(_Slot, processes)
        self._taken = context.Value("q", 0)

    def take(self) -> SlotProgress:
        """The next free slot, for the process that asks."""
        with self._taken.get_lock():
            place = self._taken.value
            self._taken.value += 1
        return SlotProgress(self.slots[place])

    @property
    def counted(self) -> int:
        """Units that all processes have done."""
        return sum(slot.counted for slot in self.slots)


class SlotProgress:
    """Progress of a process of the pool: noted in its slot, shown by the one who reads it.

    Args:
        slot: of this process alone.
    """

    def __init__(self, slot: Any):
        self._slot, self._tasks = slot, 0

    @contextmanager
    def task(self, title: str, total: int | None = None, unit: str = "") -> Iterator[SlotProgress]:
        self._tasks += 1
        slot = self._slot
        slot.title, slot.unit = _cut(title, _TITLE_BYTES), _cut(unit, _UNIT_BYTES)
        slot.done, slot.total, slot.ne = 0, _NO_TOTAL if total is None else total, _NO_NE
        slot.task = self._tasks
        try:
            yield self
        finally:
            slot.task = 0

    def advance(self, amount: int = 1, **shown: Any) -> None:
        self._slot.counted += amount
        self._slot.done += amount
        self._slot.ne = shown.get("NE", self._slot.ne)


class BoardRows(AbstractContextManager["BoardRows"]):
    """Shows the tasks of all slots, several at once, as long as they are under way.

    Args:
        board: written by the processes.
        progress: where to show them.
    """

    def __init__(self, board: Board, progress: Progress):
        self._slots, self._progress = board.slots, passing(progress)
        self._rows = [_Row() for _ in board.slots]

    def look(self) -> None:
        """Bring what is shown up to date."""
        for slot, row in zip(self._slots, self._rows, strict=True):
            row.follow(slot, self._progress)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for row in self._rows:
            row.close()


class _Row:
    """The task of one slot, as it is shown."""

    def __init__(self) -> None:
        self._open, self._task, self._done = ExitStack(), 0, 0
        self._bar: Task | None = None

    def follow(self, slot: Any, progress: Progress) -> None:
        if slot.task != self._task:
            self.close()
            self._task = slot.task
            if self._task:
                total = None if slot.total == _NO_TOTAL else slot.total
                title, unit = (text.decode(errors="replace") for text in (slot.title, slot.unit))
                self._bar = self._open.enter_context(progress.task(title, total, unit))
        if self._bar is not None:
            done = slot.done
            self._bar.advance(done - self._done, **({} if math.isnan(slot.ne) else {"NE": slot.ne}))
            self._done = done

    def close(self) -> None:
        self._open.close()
        self._open, self._bar, self._task, self._done = ExitStack(), None, 0, 0


def _cut(text: str, size: int) -> bytes:
    """At most `size` bytes with the one that ends it, no character in halves."""
    return text.encode()[: size - 1].decode(errors="ignore").encode()
