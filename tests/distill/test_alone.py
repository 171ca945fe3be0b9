"""One process at a time in a place."""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from distill.alone import alone
from distill.errors import UserError
from distill.progress import NoProgress, PlainProgress
from tests.forked import context

WHAT = "output: runs/demo"


def hold(lock: Path, inside: Path, seconds: float) -> None:
    with alone(lock, WHAT, NoProgress()):
        inside.touch()
        time.sleep(seconds)


def held(lock: Path, seconds: float) -> int:
    """Another process that is inside; its number."""
    inside = lock.with_name("inside")
    inside.unlink(missing_ok=True)
    process = context().Process(target=hold, args=(lock, inside, seconds))
    process.start()
    while not inside.exists():
        assert process.is_alive()
        time.sleep(0.005)
    assert process.pid is not None
    return process.pid


def enter(lock: Path) -> str:
    """Go in; what was printed on the way."""
    printed = io.StringIO()
    with alone(lock, WHAT, PlainProgress(printed)):
        pass
    return printed.getvalue()


def test_next_one_waits_and_says_for_whom(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "run"
    number = held(lock, seconds=0.5)
    assert f"{WHAT}: waiting for process {number} on " in enter(lock)
    assert enter(lock) == ""  # nobody is there any more


def test_one_who_stays_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = held(tmp_path / "run", seconds=60)
    monkeypatch.setattr("distill.alone.PATIENCE", 0.1)
    with pytest.raises(UserError, match=f"^{WHAT}: got process {number} on .* allowed: one at a time"):
        enter(tmp_path / "run")
    os.kill(number, signal.SIGKILL)
    enter(tmp_path / "run")  # the system let go


def test_error_inside_lets_the_next_one_in(tmp_path: Path) -> None:
    with pytest.raises(KeyError), alone(tmp_path / "run", WHAT, NoProgress()):
        raise KeyError
    assert enter(tmp_path / "run") == ""


def test_several_places_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with alone(tmp_path / "one", WHAT, NoProgress()):
        assert enter(tmp_path / "other") == ""


def refusing(number: int) -> Callable[..., NoReturn]:
    def flock(*unused: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return flock


def test_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    with caplog.at_level(logging.WARNING):
        enter(tmp_path / "run")
    assert f"{tmp_path / 'run'}: the file system has no locks" in caplog.text


def test_other_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        enter(tmp_path / "run")
