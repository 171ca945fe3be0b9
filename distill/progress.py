"""Progress of everything that takes more than a few seconds: a bar on a terminal, plain lines elsewhere.

    with progress.task("teacher day 3", total=15_900, unit="examples") as bar:
        bar.advance(512, loss=0.53)

Free of torch; rich is imported when a bar is first shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

LINE_SECONDS = 5.0
"""Time between two plain lines of one task."""

PASSING = 12
"""Plain lines of tasks beside another one are rarer by this factor: there may be as many as processors."""


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int = 1, **shown: Any) -> None:
        """Count what was done.

        Args:
            amount: units done since the last call.
            shown: what else to show by name, such as `loss=0.53`; stays until replaced.
        """


class Progress(Protocol):
    """Shows tasks; tasks may be nested."""

    def task(self, title: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Begin a task; it ends with the context.

        Args:
            title: what is done.
            total: units in all; None when not known.
            unit: plural of what is counted; empty when nothing is counted.
        """


class Count:
    """How far one task is, and how to say it.

    Args:
        title, total, unit: as for `Progress.task`.
        clock: seconds.
    """

    def __init__(self, title: str, total: int | None, unit: str, clock: Callable[[], float]):
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self.shown: dict[str, Any] = {}
        self._clock, self._start = clock, clock()

    def add(self, amount: int, shown: dict[str, Any]) -> None:
        """Count what was done and keep what to show."""
        self.done += amount
        self.shown |= shown

    @property
    def seconds(self) -> float:
        return self._clock() - self._start

    @property
    def rate(self) -> float:
        """Units per second; 0 before any time has passed."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def speed(self) -> str:
        """The rate as text, such as `2,300 examples/s` or `0.03 runs/s`; empty where nothing is counted or done."""
        if not (self.unit and self.rate > 0):
            return ""
        return f"{self.rate:,.0f} {self.unit}/s" if self.rate >= 10 else f"{self.rate:.2g} {self.unit}/s"

    @property
    def complete(self) -> bool:
        """True when all is done of what is counted."""
        return self.total is not None and self.done >= self.total

    @property
    def left(self) -> float | None:
        """Seconds left at the present rate; None when nobody can tell."""
        return (self.total - self.done) / self.rate if self.total is not None and self.rate > 0 else None

    def pace(self) -> str:
        """Rate, time left and what else is shown, such as `2,300 examples/s, 12 s left, loss 0.53`."""
        parts = [self.speed] if self.speed else []
        parts += [f"{duration(self.left)} left"] if self.left is not None else []
        return ", ".join([*parts, *(f"{name} {_text(value)}" for name, value in self.shown.items())])

    def line(self) -> str:
        """The state in one line, while the task is under way."""
        of_total = f" of {self.total:,}" if self.total is not None else ""
        percent = f" ({100 * self.done // self.total} %)" if self.total else ""
        amount = f"{self.done:,}{of_total} {self.unit}{percent}" if self.unit else duration(self.seconds)
        return ", ".join(part for part in (f"{self.title}: {amount}", self.pace()) if part)

    def summary(self, complete: bool) -> str:
        """The last line of the task."""
        amount = f"{self.done:,} {self.unit} in " if self.unit else ""
        rate = f" ({self.speed})" if self.speed else ""
        shown = "".join(f", {name} {_text(value)}" for name, value in self.shown.items())
        stopped = "" if complete else "stopped, "
        return f"{self.title}: {stopped}{amount}{duration(self.seconds)}{rate}{shown}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class NoProgress:
    """Shows nothing."""

    @contextmanager
    def task(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Task]:
        yield self

    def advance(self, amount: int = 1, **shown: Any) -> None:
        """Counts nothing."""


class PlainProgress:
    """A line every few seconds and one at the end of each task; for files, pipes and logs.

    Args:
        stream: where to write.
        seconds: time between two lines of a task.
        clock: seconds; tests give their own.
        lasting: whether a task leaves a line when it ends.
    """

    def __init__(
        self,
        stream: TextIO,
        seconds: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        lasting: bool = True,
    ):
        self._stream, self._seconds, self._clock, self._lasting = stream, seconds, clock, lasting

    @contextmanager
    def task(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Task]:
        count = Count(title, total, unit, self._clock)
        complete = False
        try:
            yield _PlainTask(count, self._write, self._seconds)
            complete = True
        finally:
            if self._lasting:
                self._write(count.summary(complete))

    def passing(self) -> PlainProgress:
        """The same for tasks that leave no line; they say less often how far they are."""
        return PlainProgress(self._stream, PASSING * self._seconds, self._clock, lasting=False)

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class _PlainTask:
    def __init__(self, count: Count, write: Callable[[str], None], seconds: float):
        self._count, self._write, self._every = count, write, seconds
        self._next = seconds

    def advance(self, amount: int = 1, **shown: Any) -> None:
        self._count.add(amount, shown)
        # Of a task that is complete the summary will tell.
        if self._count.seconds >= self._next and not self._count.complete:
            self._next = self._count.seconds + self._every
            self._write(self._count.line())


class BarProgress:
    """Bars on a terminal; a finished task leaves one line.

    Args:
        stream: the terminal.
        clock: seconds; tests give their own.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._stream, self._clock = stream, clock
        self._bars: RichBars | None = None
        self._open = 0

    def task(self, title: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        return self._task(title, total, unit, lasting=True)

    def passing(self) -> Progress:
        """The same display for tasks that leave no line."""
        return _PassingBars(self)

    @contextmanager
    def _task(self, title: str, total: int | None, unit: str, lasting: bool) -> Iterator[Task]:
        bars = self._enter()
        count = Count(title, total, unit, self._clock)
        row = bars.add_task(title, total=total, pace="")
        complete = False
        try:
            yield _BarTask(count, bars, row)
            complete = True
        finally:
            bars.remove_task(row)
            if lasting:
                bars.console.print(count.summary(complete), highlight=False, markup=False)
            self._leave(bars)

    def _enter(self) -> RichBars:
        """The one live display of this terminal, started with the first of nested tasks."""
        if self._bars is None:
            self._bars = _rich_bars(self._stream)
            self._bars.start()
        self._open += 1
        return self._bars

    def _leave(self, bars: RichBars) -> None:
        self._open -= 1
        if self._open == 0:
            bars.stop()
            self._bars = None


class _PassingBars:
    """Bars that leave no line, on the display of others."""

    def __init__(self, bars: BarProgress):
        self._bars = bars

    def task(self, title: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        return self._bars._task(title, total, unit, lasting=False)


class _BarTask:
    def __init__(self, count: Count, bars: RichBars, row: TaskID):
        self._count, self._bars, self._row = count, bars, row

    def advance(self, amount: int = 1, **shown: Any) -> None:
        self._count.add(amount, shown)
        self._bars.update(self._row, completed=self._count.done, pace=self._count.pace())


def _rich_bars(stream: TextIO) -> RichBars:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichBars

    title = TextColumn("{task.description}", markup=False)
    pace = TextColumn("{task.fields[pace]}", markup=False)
    console = Console(file=stream)
    return RichBars(title, BarColumn(), TaskProgressColumn(), pace, console=console, transient=True)


def progress_on(stream: TextIO | None = None) -> Progress:
    """Bars when the stream is a terminal, plain lines otherwise.

    Args:
        stream: where to show it; standard error when None.
    """
    stream = sys.stderr if stream is None else stream
    return BarProgress(stream) if stream.isatty() else PlainProgress(stream)


def passing(progress: Progress) -> Progress:
    """Where `progress` is shown, for tasks that come and go beside a lasting one: they leave no line when they end."""
    return progress.passing() if isinstance(progress, PlainProgress | BarProgress) else NoProgress()


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
