"""Wukong's interactions on a GPU through their one function: skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels.wukong_fm import wukong_fm
from kernels.wukong_fm.op import GPU_SIZES, fm_lcb
from tests.kernels.wukong_fm_cases import assert_as_exact, draw, normed, poisoned_memory, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

# (B, N, D, K, L): ones, off the powers of two, GEM's, the largest sizes, an empty batch.
SHAPES = [
    (1, 1, 1, 1, 1),
    (5, 7, 6, 3, 2),
    (1000, 37, 96, 8, 36),
    (300, GPU_SIZES["N"], 200, GPU_SIZES["K"], GPU_SIZES["L"]),
    (0, 4, 8, 2, 3),
]
# Interactions are sums of products of three: their size grows with N and D.
SLACK = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


def cuda(
    shape: tuple[int, ...], compress: bool, dtype: torch.dtype, own: bool = False, norm: bool = False
) -> list[Tensor | None]:
    """As `draw`, small enough for float16."""
    drawn = draw(shape, compress, dtype, own, norm)
    return [None if t is None else (t / max(shape[1], 1) ** 0.5).cuda() for t in drawn]


@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_as_exact_as_the_reference(
    shape: tuple[int, ...], compress: bool, own: bool, norm: bool, dtype: torch.dtype
) -> None:
    inputs = cuda(shape, compress, dtype, own, norm)
    assert_as_exact(run(wukong_fm, inputs), inputs, SLACK[dtype])


@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
def test_repeats_are_bitwise_equal(dtype: torch.dtype) -> None:
    inputs = cuda((1000, 37, 96, 8, 36), True, dtype, norm=True)
    first, *others = (run(wukong_fm, inputs) for _ in range(5))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_autocast_computes_in_float32() -> None:
    x, y, w = cuda((5, 7, 6, 3, 2), True, torch.bfloat16)
    assert x is not None and y is not None and w is not None
    with torch.autocast("cuda", torch.bfloat16):
        outputs = wukong_fm(x, y.float(), w.float())
    expected = wukong_fm(x.float(), y.float(), w.float())
    for mine, theirs in zip(outputs, expected, strict=True):
        assert mine is not None and theirs is not None and torch.equal(mine, theirs)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_opcheck(own: bool, norm: bool) -> None:
    drawn = cuda((3, 4, 5, 2, 3), True, torch.float32, own, norm)
    arguments = [None if x is None else x.requires_grad_() for x in drawn]
    torch.library.opcheck(fm_lcb, (*arguments, *([] if norm else [None, None]), 1e-5))


def test_nothing_waits_for_the_gpu() -> None:
    inputs = [t.requires_grad_() for t in cuda((9, 7, 6, 3, 2), True, torch.float32) if t is not None]

    def step() -> None:
        interactions, compressed = normed(wukong_fm)(*inputs)
        assert compressed is not None
        (interactions.sum() + compressed.sum()).backward()

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
