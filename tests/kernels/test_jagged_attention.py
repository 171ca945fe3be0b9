"""Jagged attention: the fast path against `reference.py`, `reference.py` against torch's own functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.jagged_attention import cpu, cpu_activations, jagged_attention
from kernels.jagged_attention.blocks import groups
from kernels.jagged_attention.reference import jagged_attention as reference
from tests.kernels.jagged_attention_cases import (
    ACTIVATIONS,
    CASES,
    HEADS,
    WIDTH,
    Case,
    assert_right,
    draw,
    offsets_of,
    poisoned_memory,
    run,
)

# None, one, several rows of a kind, off the powers of two, longer than one block of flash attention.
LENGTHS = [0, 1, 7, 0, 7, 33, 1, 130, 7, 3, 0]
OTHER_LENGTHS = [2, 0, 7, 0, 7, 5, 1, 19, 3, 300, 1]


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


def assert_equals_reference(inputs: list[Tensor], *offsets: Tensor | None, **options: Any) -> list[Tensor]:
    got = run(jagged_attention, inputs, *offsets, **options)
    for mine, theirs in zip(got, run(reference, inputs, *offsets, **options), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    return got


# One key, a few, as many as a whole block, one more than a row has, far more than any row has.
WINDOWS = [1, 3, 32, 34, 10_000]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, *WINDOWS])
def test_reference_equals_torch_on_every_row(causal: bool, window: int) -> None:
    offsets = offsets_of(LENGTHS)
    q, k, v = (draw(int(offsets[-1]), seed=s) for s in range(3))
    out = reference(q, k, v, offsets, offsets, causal=causal, window=window)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        row_q, row_k, row_v = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        seen = [[0 <= i - j if causal else True for j in range(end - start)] for i in range(end - start)]
        for i, row in enumerate(seen):
            row[:] = [sees and (window == 0 or -window < i - j < window) for j, sees in enumerate(row)]
        mask = torch.tensor(seen, dtype=torch.bool).view(end - start, end - start)
        expected = scaled_dot_product_attention(row_q, row_k, row_v, attn_mask=mask)[0].transpose(0, 1)
        torch.testing.assert_close(out[start:end], expected)


BY_HAND: dict[str, Callable[[float, int], float]] = {
    "silu": lambda s, keys: s / (1 + math.exp(-s)) / keys,
    "gelu": lambda s, keys: s * (1 + math.erf(s / math.sqrt(2))) / 2,
    "relu2": lambda s, keys: max(s, 0.0) ** 2,
}


@pytest.mark.parametrize("activation", BY_HAND)
@pytest.mark.parametrize(("causal", "window"), [(False, 0), (True, 0), (False, 2), (True, 2)])
def test_reference_of_an_activation_equals_sums_by_hand(activation: str, causal: bool, window: int) -> None:
    lengths = [3, 0, 1, 4]
    offsets = offsets_of(lengths)
    q, k, v = (draw(8, seed=s, heads=1) for s in range(3))
    out = reference(q, k, v, offsets, offsets, causal=causal, window=window, activation=activation, scale=0.7)
    for row, length in zip(offsets.tolist(), lengths, strict=False):
        for i in range(length):
            seen = [
                j for j in range(length) if not (causal and j > i) and not (window and abs(i - j) >= window)
            ]
            scores = {j: 0.7 * float(q[row + i, 0] @ k[row + j, 0]) for j in seen}
            weights = {j: BY_HAND[activation](score, length) for j, score in scores.items()}
            expected = sum((w * v[row + j, 0] for j, w in weights.items()), torch.zeros(WIDTH).double())
            torch.testing.assert_close(out[row + i, 0], expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES)
def test_float64_equals_reference(case: Case, activation: str) -> None:
    inputs = case.draw(torch.float64)
    assert_equals_reference(inputs, *case.offsets(), activation=activation, **case.options)


@pytest.mark.parametrize("activation", ["softmax", "silu"])
@pytest.mark.parametrize("causal", [False, True])
def test_long_rows_equal_reference(causal: bool, activation: str) -> None:
    offsets = offsets_of(LENGTHS)
    inputs = [draw(sum(LENGTHS), seed=s) for s in range(3)]
    assert_equals_reference(inputs, offsets, offsets, causal=causal, activation=activation)


@pytest.mark.parametrize("activation", ["softmax", "silu"])
def test_cross_attention_to_long_rows_equals_reference(activation: str) -> None:
    keys = sum(OTHER_LENGTHS)
    inputs = [draw(sum(LENGTHS)), draw(keys, seed=1), draw(keys, seed=2)]
    assert_equals_reference(inputs, offsets_of(LENGTHS), offsets_of(OTHER_LENGTHS), activation=activation)


@pytest.mark.parametrize(
    ("keys", "causal"),
    [(LENGTHS, False), (LENGTHS, True), (OTHER_LENGTHS, False)],
    ids=["self", "causal", "cross"],
)
def test_rows_whose_keys_are_taken_in_runs_equal_reference(
    keys: list[int], causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "LONG", 7)
    monkeypatch.setattr(cpu, "KEYS", 3)
    inputs = [draw(sum(LENGTHS)), draw(sum(keys), seed=1), draw(sum(keys), seed=2)]
    assert_equals_reference(inputs, offsets_of(LENGTHS), offsets_of(keys), causal=causal)


@pytest.mark.parametrize("activation", ["softmax", "gelu"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    "lengths", [pytest.param(LENGTHS, id="jagged"), pytest.param([70, 70, 70], id="equal rows")]
)
def test_windows_equal_reference(lengths: list[int], window: int, causal: bool, activation: str) -> None:
    offsets = offsets_of(lengths)
    inputs = [draw(sum(lengths), seed=s) for s in range(3)]
    assert_equals_reference(inputs, offsets, offsets, causal=causal, window=window, activation=activation)


@pytest.mark.parametrize("activation", ["softmax", "silu"])
@pytest.mark.parametrize("window", [0, 20])
def test_more_tokens_than_are_copied_together(window: int, activation: str) -> None:
    lengths = [120] * 150
    offsets = offsets_of(lengths)
    inputs = [draw(sum(lengths), seed=s, heads=1) for s in range(3)]
    assert_equals_reference(inputs, offsets, offsets, causal=True, window=window, activation=activation)


# Fewer than one block has, so that its queries are split; more, so that blocks are taken in several runs.
@pytest.mark.parametrize("together", [100, 3_000])
@pytest.mark.parametrize("activation", cpu_activations.VALUES)
@pytest.mark.parametrize("case", CASES[:6])
def test_activations_of_few_scores_together_equal_reference(
    case: Case, activation: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_activations, "SCORES_TOGETHER", together)
    inputs = case.draw(torch.float64)
    assert_equals_reference(inputs, *case.offsets(), activation=activation, **case.options)


@pytest.mark.parametrize(
    "lengths", [[20_000], [3_000, 3_000], [50] * 300], ids=["one long", "two", "many short"]
)
def test_scores_held_at_once_are_bounded(lengths: list[int]) -> None:
    offsets, heads = offsets_of(lengths), 4
    looked_at = 0
    for group in groups(offsets, offsets, False, 0):
        for taken in cpu_activations.runs(group, heads, False, 0):
            blocks = len(range(*taken.blocks.indices(group.queries.blocks * heads)))
            scores = blocks * (taken.queries.stop - taken.queries.start) * taken.keys.stop
            assert scores <= max(cpu_activations.SCORES_TOGETHER, 32 * taken.keys.stop)
            looked_at += scores
    assert looked_at == heads * sum(length**2 for length in lengths)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [5, 64])
def test_a_window_costs_its_length_times_the_row(window: int, causal: bool) -> None:
    def scores(length: int) -> int:
        offsets = offsets_of([length, 3, length])
        found = groups(offsets, offsets, causal, window)
        assert sum(group.queries.blocks * group.queries.length for group in found) == 2 * length + 3
        return sum(group.queries.blocks * group.queries.length * group.keys.length for group in found)

    block = max(window, 32)
    assert scores(8_000) <= 16_003 * (3 * block if not causal else 2 * block)
    assert scores(8_000) <= 2.05 * scores(4_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES[:6])
def test_it_errs_at_most_thrice_as_much_as_the_reference(
    case: Case, activation: str, dtype: torch.dtype
) -> None:
    assert_right(jagged_attention, case.draw(dtype), *case.offsets(), activation=activation, **case.options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_seeds_equal_reference_and_share_one_gradient(activation: str) -> None:
    offsets = offsets_of(LENGTHS)
    inputs = [draw(4), draw(sum(LENGTHS), seed=1), draw(sum(LENGTHS), seed=2)]
    out, dq, _, _ = assert_equals_reference(inputs, None, offsets, activation=activation)
    assert out.shape == (len(LENGTHS), 4, HEADS, WIDTH)
    assert dq.shape == (4, HEADS, WIDTH)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 2])
def test_gradcheck(causal: bool, window: int, activation: str) -> None:
    offsets = offsets_of([2, 0, 3, 1])
    inputs = tuple(draw(6, seed=s, width=3).requires_grad_() for s in range(3))
    options: dict[str, Any] = {"causal": causal, "window": window, "activation": activation}
    assert torch.autograd.gradcheck(
        lambda q, k, v: jagged_attention(q, k, v, offsets, offsets, **options), inputs
    )


@pytest.mark.parametrize("activation", ["softmax", "silu"])
def test_gradcheck_of_several_blocks_under_a_window(activation: str) -> None:
    offsets = offsets_of([40, 5])
    inputs = tuple(draw(45, seed=s, heads=1, width=1).requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(
        lambda q, k, v: jagged_attention(q, k, v, offsets, offsets, window=3, activation=activation), inputs
    )


@pytest.mark.parametrize("activation", ["softmax", "silu"])
def test_gradcheck_of_seeds_and_a_scale(activation: str) -> None:
    offsets = offsets_of([2, 0, 3])
    inputs = tuple(draw(n, seed=s, width=3).requires_grad_() for s, n in enumerate((2, 5, 5)))
    assert torch.autograd.gradcheck(
        lambda q, k, v: jagged_attention(q, k, v, None, offsets, scale=0.7, activation=activation), inputs
    )
