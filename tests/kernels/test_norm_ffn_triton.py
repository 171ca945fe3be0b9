"""The feed-forward block's Triton kernels without a GPU: their numbers in the interpreter, their cost when compiled."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.norm_ffn.reference import norm_ffn as reference
from tests.kernels.test_norm_ffn import FORMS, draw, run
from tests.kernels.triton_tools import interpreted

# (T, D, F): ones, off the powers of two, more rows and units than a block has, an empty batch.
SHAPES = [(1, 1, 1), (5, 6, 11), (37, 20, 33), (0, 4, 7)]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return interpreted("kernels.norm_ffn.gpu")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that a launcher asks for and a kernel does not write holds NaN, not a lucky zero."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before)


def launch(
    gpu: ModuleType, inputs: list[Tensor], products: torch.dtype | None = None, **settings: Any
) -> list[Tensor]:
    """Output and gradients as `run` gives them, by the launchers."""
    form = (settings.get("activation", "gelu"), settings.get("gated", False), settings.get("eps", 1e-5))
    products = products or inputs[0].dtype
    out = gpu.forward(*inputs, *form, products)
    gradient = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    return [out, *gpu.backward(gradient.to(out), *inputs[:-1], *form, products)]


def assert_as_exact_as_the_reference(
    found: list[Tensor], inputs: list[Tensor], floor: float, **settings: Any
) -> None:
    """An error of at most thrice that of the reference in the same dtype, against the one in float64."""
    exact = run(reference, [x.double() for x in inputs], **settings)
    for truth, theirs, got in zip(exact, run(reference, inputs, **settings), found, strict=True):
        assert got.shape == truth.shape and got.dtype == theirs.dtype
        if truth.numel():
            allowed = 3 * (theirs.double() - truth).abs().max() + floor
            assert (got.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize(("activation", "gated"), FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_as_exact_as_the_reference(
    gpu: ModuleType, shape: tuple[int, ...], activation: str, gated: bool
) -> None:
    settings: dict[str, Any] = {"activation": activation, "gated": gated, "eps": 1e-3}
    inputs = draw(shape, gated, torch.float32)
    assert_as_exact_as_the_reference(launch(gpu, inputs, **settings), inputs, 2e-6, **settings)


@pytest.mark.parametrize(("activation", "gated"), FORMS)
def test_float16_is_as_exact_as_the_reference(gpu: ModuleType, activation: str, gated: bool) -> None:
    settings: dict[str, Any] = {"activation": activation, "gated": gated}
    inputs = draw((37, 20, 33), gated, torch.float16)
    assert_as_exact_as_the_reference(launch(gpu, inputs, **settings), inputs, 1e-3, **settings)
