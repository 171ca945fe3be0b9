"""Files that appear complete or not at all. Free of torch."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends, and vanishes when the block
    raises.

    Args:
        path: the file to write; its folder is made. A file that stands there is replaced.

    Yields:
        The path to write to. Two writers of one path never share it: the last to end wins, whole.

    Raises:
        UserError: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with naming_full_disk(path):
            yield temporary
            temporary.chmod(
                0o644
            )  # mkstemp gives 0600, which would keep others from reading a shared run folder
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say what to do about a disk that is found to be full inside.

    Args:
        path: what is being written.

    Raises:
        UserError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"{path}: the disk is full ({os.strerror(error.errno)}). Free some space and repeat the command; what is "
            "done already is kept."
        ) from error
