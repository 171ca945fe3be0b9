"""What every path of Wukong's interactions is fed with, and how its tests run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kernels.wukong_fm.reference import wukong_fm as reference


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


def draw(
    shape: Sequence[int],
    compress: bool,
    dtype: torch.dtype = torch.float64,
    own: bool = False,
    norm: bool = False,
) -> list[Tensor | None]:
    """x, y (of the examples' own, if asked for), w, and the norm's weight and bias if there is one."""
    b, n, d, k, rows = shape
    generator = torch.Generator().manual_seed(0)
    sizes = [(b, n, d), (b, n, k) if own else (n, k), (rows, n), *[(n * k,)] * 2 * norm]
    drawn: list[Tensor | None] = [
        torch.randn(size, dtype=torch.float64, generator=generator).to(dtype) for size in sizes
    ]
    drawn[2] = drawn[2] if compress else None
    return drawn


def normed(
    function: Callable[..., tuple[Tensor, Tensor | None]],
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The function of what `draw` gives, in that order."""

    def call(*inputs: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x, y, w, *norm = inputs
        return function(x, y, w, **dict(zip(("norm_weight", "norm_bias"), norm, strict=False)))

    return call


def run(
    function: Callable[..., tuple[Tensor, Tensor | None]], inputs: Sequence[Tensor | None]
) -> list[Tensor]:
    """Outputs, and the gradients of fixed random functions of them."""
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in inputs]
    outputs = [out for out in normed(function)(*leaves) if out is not None]
    torch.autograd.backward(outputs, gradients_of(outputs))
    return [
        *(out.detach() for out in outputs),
        *(x.grad for x in leaves if x is not None and x.grad is not None),
    ]


def gradients_of(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The same random numbers for every path."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out) for out in outputs]


def assert_as_exact(found: Sequence[Tensor], inputs: Sequence[Tensor | None], slack: float) -> None:
    """Each errs at most thrice as much as the reference of its precision does, both against float64.

    Args: outputs and gradients, what they are of, and an error that is always allowed.
    """
    exact = run(reference, [None if x is None else x.double() for x in inputs])
    for truth, usual, got in zip(exact, run(reference, inputs), found, strict=True):
        assert got.dtype == usual.dtype and got.shape == truth.shape
        if truth.numel():
            allowed = 3 * (usual.double() - truth).abs().max() + slack
            assert (got.double() - truth).abs().max() <= allowed
