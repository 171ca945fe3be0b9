"""The peak that MFU is measured against: FLOPs per second of a plain matrix product on this process's device."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precisions by the name that settings use."""

GPUS = {
    "NVIDIA A100-PCIE-40GB": {"fp32": 19.5e12, "bf16": 312e12},
    "NVIDIA A100 80GB PCIe": {"fp32": 19.5e12, "bf16": 312e12},
    "NVIDIA A100-SXM4-40GB": {"fp32": 19.5e12, "bf16": 312e12},
    "NVIDIA A100-SXM4-80GB": {"fp32": 19.5e12, "bf16": 312e12},
    "NVIDIA H100 PCIe": {"fp32": 51e12, "bf16": 756e12},
    "NVIDIA H100 80GB HBM3": {"fp32": 67e12, "bf16": 989e12},
    "NVIDIA H200": {"fp32": 67e12, "bf16": 989e12},
    "NVIDIA L4": {"fp32": 30.3e12, "bf16": 121e12},
    "NVIDIA L40S": {"fp32": 91.6e12, "bf16": 362e12},
}
"""Dense peaks by the device's own name, from NVIDIA's data sheets; fp32 without TF32, which torch leaves off."""

_SIZE = 1024
_SECONDS = 0.2


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak of this process, FLOPs per second.

    On a CPU it is measured, once for each number of torch threads, since clocks, vector units and the cores that
    this process may use are not to be had from a name. On a GPU it is what the maker states.

    Args:
        device: where the model runs.
        precision: of its matrix products: fp32 or bf16.

    Returns:
        The peak; None for a device that is not known here: nothing is guessed.
    """
    if device.type == "cpu":
        return measure_cpu(precision, torch.get_num_threads())
    if device.type == "cuda":
        return GPUS.get(torch.cuda.get_device_name(device), {}).get(precision)
    return None


@lru_cache
def measure_cpu(precision: str, threads: int) -> float:
    """The best of the products of two 1024 x 1024 matrices that fit into a fifth of a second, two at least.

    Args:
        precision: fp32 or bf16.
        threads: the number of torch threads, which is set already; part of what is remembered.
    """
    left = torch.full((_SIZE, _SIZE), 0.5, dtype=DTYPES[precision])
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - began < _SECONDS:
        before = time.perf_counter()
        left @ left
        times.append(time.perf_counter() - before)
    return 2 * _SIZE**3 / min(times)
