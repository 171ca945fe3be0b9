"""Jagged attention on a GPU through its one function: skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kernels.jagged_attention import jagged_attention
from kernels.jagged_attention.reference import jagged_attention as reference
from tests.kernels.jagged_attention_cases import (
    ACTIVATIONS,
    CASES,
    Case,
    assert_as_exact,
    assert_right,
    draw,
    offsets_of,
    poisoned_memory,
    run,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Memory is filled in torch's deterministic mode only, which asks this of cuBLAS.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with poisoned_memory():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES)
def test_it_is_as_exact_as_the_reference(case: Case, activation: str, dtype: torch.dtype) -> None:
    inputs = case.draw(dtype, "cuda")
    assert_right(jagged_attention, inputs, *case.offsets("cuda"), activation=activation, **case.options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("width", [16, 64, 128, 256])
def test_long_rows_of_any_width(width: int, activation: str) -> None:
    lengths = [700, 0, 1, 300, 129]
    offsets = offsets_of(lengths).cuda()
    inputs = [draw(sum(lengths), torch.bfloat16, seed=s, width=width).cuda() for s in range(3)]
    for options in ({"causal": True}, {"window": 200}):
        assert_right(jagged_attention, inputs, offsets, offsets, activation=activation, **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_repeats_are_bitwise_equal(activation: str) -> None:
    lengths = [700, 0, 1, 300]
    offsets = offsets_of(lengths).cuda()
    inputs = [draw(sum(lengths), torch.bfloat16, seed=s, width=64).cuda() for s in range(3)]
    first, *others = (
        run(jagged_attention, inputs, offsets, offsets, activation=activation) for _ in range(5)
    )
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_seeds_are_as_exact_as_the_reference(activation: str) -> None:
    offsets = offsets_of([3, 0, 50]).cuda()
    inputs = [draw(n, torch.float32, seed=s).cuda() for s, n in enumerate((4, 53, 53))]
    exact = run(reference, [x.double() for x in inputs], None, offsets, activation=activation)
    plain = run(reference, inputs, None, offsets, activation=activation)
    assert_as_exact(
        run(jagged_attention, inputs, None, offsets, activation=activation), plain, exact, slack=1e-6
    )


def test_a_causal_order_takes_one_tensor_of_offsets() -> None:
    x, offsets = torch.zeros(3, 1, 4, device="cuda"), torch.tensor([0, 3], device="cuda")
    with pytest.raises(ValueError, match="causal: got True, .* q_offsets is another tensor than k_offsets"):
        jagged_attention(x, x, x, offsets, offsets.clone(), causal=True)
