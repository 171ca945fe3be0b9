"""Medians and floors on the device that is at hand."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

from experiments.benchmarks import results
from experiments.benchmarks.kernels.case import Case, attempt

LEAST, MOST = 3, 200
_PRODUCT = {"cpu": 1024, "cuda": 8192}
_FLUSH, _COPY = 256 << 20, 1 << 30


def medians(steps: Mapping[str, Callable[[], Any]], seconds: float, device: str) -> dict[str, float | None]:
    """Median time of every step, microseconds; None where the device's memory is too small for it.

    The steps take turns, so that a busy moment of the machine meets all. On a CPU it is processor time of one thread.

    Args:
        steps: by name; each is done once before.
        seconds: for each step, of which at least LEAST and at most MOST are timed.
        device: `cpu` or `cuda`.
    """
    clock = _cuda_seconds if device == "cuda" else _cpu_seconds
    times: dict[str, list[float]] = {name: [] for name, step in steps.items() if _fits(step)}
    open_ = set(times)
    while open_:
        for name in [name for name in times if name in open_]:
            times[name].append(clock(steps[name]))
            enough = sum(times[name]) > seconds and len(times[name]) >= LEAST
            if enough or len(times[name]) >= MOST:
                open_.remove(name)
    return {name: 1e6 * median(times[name]) if name in times else None for name in steps}


class Floor:
    """The least time of a case: its FLOPs at the device's peak, or its bytes at the device's bandwidth.

    Both are measured here: a product of large matrices, and a copy; on a CPU a copy of as many bytes as the case has,
    so that a case that fits into the cache is measured against the cache.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str):
        self._device = device
        self._peaks: dict[torch.dtype, float] = {}
        self._bandwidths: dict[int, float] = {}

    def microseconds(self, case: Case) -> float:
        """Of one step."""
        return 1e6 * max(
            case.flops / self._peak(case.dtype) if case.flops else 0.0,
            case.bytes / self._bandwidth(case.bytes),
        )

    def _peak(self, dtype: torch.dtype) -> float:
        """FLOPs per second, by the clock that times the cases."""
        if dtype not in self._peaks:
            size = _PRODUCT[self._device]
            left = torch.full((size, size), 0.5, dtype=dtype, device=self._device)
            found = medians({"product": lambda: left @ left}, 0.5, self._device)["product"]
            assert found is not None
            self._peaks[dtype] = 2e6 * size**3 / found
        return self._peaks[dtype]

    def _bandwidth(self, moved: int) -> float:
        """Bytes read and written per second."""
        size = _COPY if self._device == "cuda" else 1 << max(12, (moved // 2).bit_length())
        if size not in self._bandwidths:
            source = torch.zeros(size, dtype=torch.uint8, device=self._device)
            target = torch.empty_like(source)
            found = medians({"copy": lambda: target.copy_(source)}, 0.2, self._device)["copy"]
            assert found is not None
            self._bandwidths[size] = 2e6 * size / found
        return self._bandwidths[size]


def machine(device: str) -> str:
    """A short name of the processor that computes."""
    if device == "cpu":
        return results.machine()
    return "_".join(re.findall(r"[a-z0-9]+", torch.cuda.get_device_name().lower()))


def _fits(step: Callable[[], Any]) -> bool:
    return attempt(lambda: (step(),)) is not None


def _cpu_seconds(step: Callable[[], Any]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def _cuda_seconds(step: Callable[[], Any]) -> float:
    """Time on the device, its cache filled with something else before."""
    torch.empty(_FLUSH, dtype=torch.uint8, device="cuda").zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return 1e-3 * start.elapsed_time(end)
