"""Memory that a step gives back stays with the process, for the next step to take.

A bank's step makes temporaries of some megabytes. glibc hands freed memory of that size back to the kernel, and gets it
again page by page, each of them zeroed: a tenth of a step or more.
"""

from __future__ import annotations

import ctypes
import logging
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>
MAPPED = 32 << 20
"""Bytes from which an allocation is mapped by itself and unmapped when freed: the most that glibc takes."""
KEPT = 1 << 30
"""Bytes that may lie free at the end of the heap before they are given back."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees; of glibc alone, once, for the whole process. Results do not change.

    Returns:
        True where it is so from now on. Elsewhere a warning says what is missed.
    """
    if platform.libc_ver()[0] != "glibc":
        logging.getLogger(__name__).warning(
            "bank: no glibc here, so freed memory goes back to the system at every step: it may take a tenth longer"
        )
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, MAPPED)) and bool(libc.mallopt(_TRIM_THRESHOLD, KEPT))
