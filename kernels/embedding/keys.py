"""The keys that look into a fused table: as many as fbgemm's CPU backward is fastest with.

On an Intel Xeon it updates a table that one key looks into 4 to 8 times slower than one that two keys share, on an AMD
EPYC 1.5 to 2 times faster (`python -m experiments.benchmarks.kernels --only embedding`). So bags are dealt to two keys
in turn on the one and stay in one row on the other. Either way row by row the result is in the bags' own order, without
a copy.

Shape letters: N bags, K keys, D embedding dim.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def keys_for(cpuinfo: Path) -> tuple[str, ...]:
    """The keys for the processors that Linux describes in a file."""
    intel = cpuinfo.is_file() and "GenuineIntel" in cpuinfo.read_text(encoding="utf-8")
    return ("even", "odd") if intel else ("all",)


KEYS = keys_for(Path("/proc/cpuinfo"))


def beside(bags: Tensor) -> Tensor:
    """[N, D], key by key, as fbgemm gives it: each key's bags beside the one's before, [N / K, K * D]."""
    return bags if len(KEYS) == 1 else torch.cat(bags.chunk(len(KEYS)), dim=1)
