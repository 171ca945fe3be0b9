"""What every Triton path asks for: triton itself, a GPU that it compiles for, and that GPU being the current one."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import torch
from torch import Tensor

OLDEST = (8, 0)
"""Compute capability: A100. Older ones multiply no bfloat16."""


@functools.cache
def check_gpu(operator: str, device: torch.device) -> None:
    """Refuse a GPU on which an operator's kernels cannot run.

    Args:
        operator: whose kernels, for the message.
        device: of the tensors.

    Raises:
        RuntimeError: triton is not installed.
        ValueError: the GPU is older than an A100.
    """
    if find_spec("triton") is None:
        raise RuntimeError(
            f"{operator}: got tensors on '{device}', allowed: 'cpu', because triton is not installed. "
            "Install triton, or keep the tensors on the CPU"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        found, oldest = (".".join(map(str, version)) for version in (capability, OLDEST))
        raise ValueError(
            f"{operator}: got a GPU of compute capability {found}, allowed: {oldest} (A100) or newer"
        )


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current GPU, which need not be the tensors'."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()
