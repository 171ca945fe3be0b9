"""A disk that takes only so much."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_disk(size: int = 512) -> Iterator[None]:
    """Every file that is written inside ends at `size` bytes: the system refuses the rest (EFBIG), as it refuses all
    on a full disk (ENOSPC), to whatever library is writing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
