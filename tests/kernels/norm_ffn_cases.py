"""What every path of the feed-forward block is fed with, and how its tests run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kernels.norm_ffn.op import ACTIVATIONS
from kernels.norm_ffn.reference import norm_ffn as reference

FORMS = [(activation, gated) for activation in ACTIVATIONS for gated in (False, True)]


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that an operator asks for and does not write holds NaN, not a lucky zero."""
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = True
    # On a GPU the reference's products only warn that they may differ between runs.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]


def draw(shape: Sequence[int], gated: bool = False, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x and the six parameters, in the operator's order."""
    rows, width, units = shape
    first = 2 * units if gated else units
    sizes = [(rows, width), (width,), (width,), (first, width), (first,), (width, units), (width,)]
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(size, dtype=torch.float64, generator=generator) for size in sizes]
    drawn[3], drawn[5] = drawn[3] / width**0.5, drawn[5] / units**0.5
    return [tensor.to(dtype) for tensor in drawn]


def run(function: Callable[..., Tensor], inputs: Sequence[Tensor], **settings: Any) -> list[Tensor]:
    """Output, and the gradients of a fixed random function of it."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves, **settings)
    found = torch.autograd.grad(out, leaves, gradient_of(out), materialize_grads=True)
    return [out.detach(), *found]


def gradient_of(out: Tensor) -> Tensor:
    """The same random numbers for every path."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out)


def assert_as_exact(
    found: Sequence[Tensor],
    inputs: Sequence[Tensor],
    slack: float,
    plain: Sequence[Tensor] | None = None,
    **settings: Any,
) -> None:
    """Each errs at most thrice as much as plain PyTorch of its precision does, both against float64.

    Args:
        found: output and gradients.
        inputs: what they are of.
        slack: error that is always allowed.
        plain: those of plain PyTorch, if not the reference's of the inputs.
        settings: of the function.
    """
    exact = run(reference, [x.double() for x in inputs], **settings)
    for truth, usual, got in zip(exact, plain or run(reference, inputs, **settings), found, strict=True):
        assert got.dtype == usual.dtype and got.shape == truth.shape
        if truth.numel():
            allowed = 3 * (usual.double() - truth).abs().max() + slack
            assert (got.double() - truth).abs().max() <= allowed
