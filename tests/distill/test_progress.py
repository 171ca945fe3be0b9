"""Progress: bars on a terminal, lines elsewhere, nothing when asked for nothing."""

from __future__ import annotations

import io
import re

import pytest

from distill.progress import BarProgress, NoProgress, PlainProgress, duration, passing, progress_on


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_every_few_seconds_and_one_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, seconds=5, clock=clock)
    with progress.task("teacher day 3", total=2000, unit="examples") as bar:
        for _ in range(10):
            clock.now += 1
            bar.advance(100, loss=0.512345, jobs="1/2")
    assert stream.getvalue().splitlines() == [
        "teacher day 3: 500 of 2,000 examples (25 %), 100 examples/s, 15 s left, loss 0.5123, jobs 1/2",
        "teacher day 3: 1,000 of 2,000 examples (50 %), 100 examples/s, 10 s left, loss 0.5123, jobs 1/2",
        "teacher day 3: 1,000 examples in 10 s (100 examples/s), loss 0.5123, jobs 1/2",
    ]


def test_a_slow_rate_and_a_task_that_is_complete() -> None:
    """Less than ten a second is not rounded to nothing; what is complete is told once."""
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, seconds=5, clock=clock).task("runs", total=2, unit="runs") as bar:
        for _ in range(2):
            clock.now += 32
            bar.advance(1)
    assert stream.getvalue().splitlines() == [
        "runs: 1 of 2 runs (50 %), 0.031 runs/s, 32 s left",
        "runs: 2 runs in 1 min 4 s (0.031 runs/s)",
    ]


def test_an_error_inside_is_not_called_done() -> None:
    stream, clock = io.StringIO(), Clock()
    with pytest.raises(RuntimeError):
        with PlainProgress(stream, clock=clock).task("log", total=10, unit="days") as bar:
            clock.now += 2
            bar.advance(4)
            raise RuntimeError
    assert stream.getvalue() == "log: stopped, 4 days in 2.0 s (2 days/s)\n"


def test_nothing_to_count() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, clock=clock).task("scores") as bar:
        clock.now += 6
        bar.advance(0, step="bootstrap")
        clock.now += 1
    assert stream.getvalue().splitlines() == [
        "scores: 6.0 s, step bootstrap",
        "scores: 7.0 s, step bootstrap",
    ]


def test_a_total_of_zero_and_no_time() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, seconds=0, clock=Clock()).task("empty", total=0, unit="rows") as bar:
        bar.advance(0)
    assert stream.getvalue().splitlines() == ["empty: 0 rows in 0.0 s"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (12.6, "13 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nested_bars_leave_one_line_each() -> None:
    terminal = Terminal()
    progress = BarProgress(terminal)
    with progress.task("students [3]", total=2, unit="jobs") as outer:
        with progress.task("student 1", total=10, unit="examples") as inner:
            inner.advance(10, loss=0.5)
        outer.advance(2)
    with progress.task("scores"):
        pass
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    lines = [line.strip("\r") for line in text.splitlines()]
    assert any(line.startswith("student 1: 10 examples in ") and line.endswith("loss 0.5") for line in lines)
    assert any(line.startswith("students [3]: 2 jobs in ") for line in lines)
    assert any(line.startswith("scores: ") for line in lines)


def test_passing_tasks_say_how_far_they_are_and_leave_no_line() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, seconds=5, clock=clock)
    with passing(progress).task("deepfm feed ah day 3", total=2000, unit="examples") as bar:
        for _ in range(8):
            clock.now += 10
            bar.advance(100, NE=0.95)
    with passing(progress).task("short", total=10, unit="examples") as bar:
        bar.advance(10)
    assert stream.getvalue().splitlines() == [
        "deepfm feed ah day 3: 600 of 2,000 examples (30 %), 10 examples/s, 2 min 20 s left, NE 0.95"
    ]


def test_passing_bars_are_on_the_display_and_leave_no_line() -> None:
    terminal = Terminal()
    progress = BarProgress(terminal)
    with progress.task("students", total=2, unit="jobs") as outer:
        with passing(progress).task("one", 10, "examples"), passing(progress).task("two", 10, "examples"):
            assert progress._bars is not None
            assert [row.description for row in progress._bars.tasks] == ["students", "one", "two"]
        outer.advance(2)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    lasting = [line.strip("\r") for line in text.splitlines() if " in " in line]
    assert len(lasting) == 1 and lasting[0].startswith("students: 2 jobs in ")


def test_passing_through_nothing_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with passing(NoProgress()).task("anything", 3, "rows") as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")


def test_the_stream_decides() -> None:
    assert isinstance(progress_on(Terminal()), BarProgress)
    assert isinstance(progress_on(io.StringIO()), PlainProgress)


def test_no_progress_takes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with NoProgress().task("anything", total=3, unit="rows") as bar:
        bar.advance(2, loss=1.0)
    assert capsys.readouterr() == ("", "")
