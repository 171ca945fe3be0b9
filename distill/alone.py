"""One process at a time in a place. The system lets the next one in when a process ends, however it does.

Free of torch.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from distill.errors import UserError
from distill.progress import Progress

PATIENCE = 20.0
"""Seconds. A process whose parent was killed saves its state and ends in less."""

_POLL_SECONDS = 0.2
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LOG = logging.getLogger(__name__)


@contextmanager
def alone(lock: Path, what: str, progress: Progress) -> Iterator[None]:
    """Be the only process inside; wait PATIENCE for another one to end.

    A file system without locks is warned of, since nobody can be kept out there.

    Args:
        lock: a file that stands for the place; made, and left there.
        what: the place, for messages.
        progress: says that there is somebody to wait for.

    Raises:
        UserError: the other one does not end.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        if not _taken(file):
            with progress.task(f"{what}: waiting for {_holder(file)}"):
                _wait(file, what)
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", end="", file=file, flush=True)
        yield


def _wait(file: TextIO, what: str) -> None:
    given_up = time.monotonic() + PATIENCE
    while not _taken(file):
        if time.monotonic() > given_up:
            raise UserError(
                f"{what}: got {_holder(file)} at work on it, allowed: one at a time. Wait for it or stop it, then "
                "repeat the command"
            )
        time.sleep(_POLL_SECONDS)


def _taken(file: TextIO) -> bool:
    """Take the lock, until the file is closed; False where another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _LOG.warning("%s: the file system has no locks; start nothing else that works there", file.name)
    return True


def _holder(file: TextIO) -> str:
    """Who has the lock, as it has said."""
    file.seek(0)
    return file.read() or "another process"
