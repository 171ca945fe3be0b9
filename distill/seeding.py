"""Initial values that depend on (seed, module name) alone, so that adding one module changes no other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, name: str) -> int:
    """A 63-bit seed for one named part of a run.

    Args:
        seed: the run's seed.
        name: the part, such as `student` or `tables.item_id`.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Build modules inside from a generator of their own; the global generator is left as it was.

    Args:
        seed: the run's seed.
        name: the module's name in the run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, name))
        yield
