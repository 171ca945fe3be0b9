"""Wukong's Triton kernels without a GPU: their numbers in the interpreter, their cost when compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.wukong_fm.reference import wukong_fm as reference
from tests.kernels.test_wukong_fm import draw, run
from tests.kernels.triton_tools import interpreted

# (B, N, D, K, L): ones, off the powers of two, more width than a block has, more examples than programs, an empty batch.
SHAPES = [(1, 1, 1, 1, 1), (5, 7, 6, 3, 2), (2, 20, 37, 5, 19), (0, 4, 8, 2, 3)]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return interpreted("kernels.wukong_fm.gpu")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that a launcher asks for and a kernel does not write holds NaN, not a lucky zero."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=True)
def few_programs(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some programs of the backward pass take several examples, others one."""
    monkeypatch.setattr(gpu, "PROGRAMS", 3)


def launch(gpu: ModuleType, inputs: Sequence[Tensor | None]) -> list[Tensor]:
    """Outputs and gradients as `run` gives them, by the launchers."""
    arguments = [*inputs, *[None] * (5 - len(inputs)), 1e-5]
    x, y, w = inputs[:3]
    assert x is not None and y is not None
    outputs = gpu.forward(*arguments)
    generator = torch.Generator().manual_seed(7)
    gradients = [
        torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.dtype)
        for out in outputs[: 1 if w is None else 2]
    ]
    gradients += [x.new_empty(0)] * (2 - len(gradients))
    found = gpu.backward(*gradients, *arguments)
    given = [t is not None for t in arguments[:5]]
    return [*outputs[: 1 if w is None else 2], *(g for g, there in zip(found, given, strict=True) if there)]


def assert_as_exact_as_the_reference(gpu: ModuleType, inputs: Sequence[Tensor | None], floor: float) -> None:
    """An error of at most thrice that of the reference in the same dtype, against the one in float64."""
    exact = run(reference, [None if x is None else x.double() for x in inputs])
    for truth, theirs, got in zip(exact, run(reference, inputs), launch(gpu, inputs), strict=True):
        assert got.shape == truth.shape and got.dtype == theirs.dtype
        if truth.numel():
            allowed = 3 * (theirs.double() - truth).abs().max() + floor
            assert (got.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_as_exact_as_the_reference(
    gpu: ModuleType, shape: tuple[int, ...], compress: bool, own: bool, norm: bool
) -> None:
    assert_as_exact_as_the_reference(gpu, draw(shape, compress, torch.float32, own, norm), 1e-5)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_float16_is_as_exact_as_the_reference(gpu: ModuleType, own: bool, norm: bool) -> None:
    assert_as_exact_as_the_reference(gpu, draw((5, 20, 37, 5, 19), True, torch.float16, own, norm), 1e-3)
