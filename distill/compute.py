"""A model's forward pass as its compute settings want it: precision of the products, compiled or not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch

from distill.batch import Batch
from distill.config import ComputeConfig
from distill.errors import UserError
from distill.protocols import Architecture, Output

Forward = Callable[[Batch], Output]


def forward_of(model: Architecture, compute: ComputeConfig) -> Forward:
    """What to call instead of the model; the model itself, its parameters and their names stay as they are.

    Args:
        model: teacher or student.
        compute: precision and compilation.

    Returns:
        From a batch to its output, in float32 whatever the precision.

    Raises:
        UserError: compilation is wanted, and there is no C++ compiler.
    """
    if compute.compile:
        _require_compiler()
    # Tables are never part of a graph (kernels.embedding). What differs from batch to batch, as the number of events
    # does, is compiled once as it is, and at its first change for any size.
    called = torch.compile(model) if compute.compile else model

    def forward(batch: Batch) -> Output:
        return called(batch)

    return _in_bf16(forward) if compute.precision == "bf16" else forward


def _require_compiler() -> None:
    """Before training, in words; torch would say it in the first batch."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"compute.compile: got true, allowed: false, because there is no C++ compiler '{compiler}'. Install g++, "
            "or name another one in the environment variable CXX"
        )


def _in_bf16(forward: Forward) -> Forward:
    def call(batch: Batch) -> Output:
        with torch.autocast(batch.example_id.device.type, torch.bfloat16):
            output = forward(batch)
        # Losses, channels and the teacher log read float32 only.
        own = None if output.own_loss is None else output.own_loss.float()
        return Output(output.logits.float(), {name: tap.float() for name, tap in output.taps.items()}, own)

    return call
