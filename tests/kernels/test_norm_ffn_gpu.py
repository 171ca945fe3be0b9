"""The feed-forward block on a GPU through its one function: skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kernels.norm_ffn import norm_ffn
from kernels.norm_ffn.op import ffn
from kernels.norm_ffn.reference import norm_ffn as reference
from tests.kernels.norm_ffn_cases import (
    FORMS,
    assert_as_exact,
    draw,
    gradient_of,
    poisoned_memory,
    run,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

# (T, D, F): ones, off the powers of two, many blocks of rows and units, an empty batch.
SHAPES = [(1, 1, 1), (37, 20, 33), (1000, 64, 256), (20011, 128, 300), (0, 4, 7)]
SLACK = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


def cuda(shape: tuple[int, ...], gated: bool, dtype: torch.dtype) -> list[Tensor]:
    return [x.cuda() for x in draw(shape, gated, dtype)]


@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
@pytest.mark.parametrize(("activation", "gated"), FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_as_exact_as_the_reference(
    shape: tuple[int, ...], activation: str, gated: bool, dtype: torch.dtype
) -> None:
    inputs = cuda(shape, gated, dtype)
    found = run(norm_ffn, inputs, activation=activation, gated=gated)
    assert_as_exact(found, inputs, SLACK[dtype], activation=activation, gated=gated)


@pytest.mark.parametrize("gated", [False, True])
def test_autocast_is_as_exact_as_the_autocast_reference(gated: bool) -> None:
    inputs = cuda((1000, 64, 256), gated, torch.float32)

    def autocast(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        with torch.autocast("cuda", torch.bfloat16):
            out = function(*leaves, gated=gated)
        return [out.detach(), *torch.autograd.grad(out, leaves, gradient_of(out))]

    assert_as_exact(autocast(norm_ffn), inputs, 2e-2, autocast(reference), gated=gated)


@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
def test_repeats_are_bitwise_equal(dtype: torch.dtype) -> None:
    inputs = cuda((20011, 64, 256), False, dtype)
    first, *others = (run(norm_ffn, inputs) for _ in range(5))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("gated", [False, True])
def test_opcheck(gated: bool) -> None:
    inputs = [x.requires_grad_() for x in cuda((37, 20, 33), gated, torch.float32)]
    torch.library.opcheck(ffn, (*inputs, "silu", gated, 1e-5, torch.float32))


def test_nothing_waits_for_the_gpu() -> None:
    inputs = [x.requires_grad_() for x in cuda((1000, 64, 256), False, torch.float32)]
    norm_ffn(*inputs).sum().backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        norm_ffn(*inputs).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
