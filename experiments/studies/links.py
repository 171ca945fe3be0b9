"""Folders of a run that are another run's: one training, one log, read by several. Free of torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def share(path: Path, target: Path) -> None:
    """Make `path` a link to a folder of another run; what was made in its place is of no use any more.

    Args:
        path: in the run that reads.
        target: in the run that writes; need not be there yet.
    """
    where = os.path.relpath(target, path.parent)
    if path.is_symlink() and os.readlink(path) == where:
        return
    keep(path)
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(where, target_is_directory=True)


def keep(path: Path) -> None:
    """Take a link away, so that the run writes a folder of its own there and not into another run's."""
    if path.is_symlink():
        path.unlink()
