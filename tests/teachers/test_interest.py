"""Interest against a plain restatement per row, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from teachers.interest import Interest

DIM = 4


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def restated(block: Interest, row: Tensor, target: Tensor) -> Tensor:
    """One example: row [T, d], target [d] to [m + 1, d]."""
    result = torch.zeros(block.weigh.out_features + 1, DIM, dtype=torch.float64)
    for event in row:
        hidden = block.of_event.weight @ event + block.of_event.bias + block.of_target.weight @ target
        hidden = silu(hidden + block.of_product.weight @ (event * target))
        weights = block.weigh.weight @ hidden + block.weigh.bias
        result[:-1] += weights[:, None] * event
        result[-1] += event
    return result / max(len(row), 1) ** 0.5


@pytest.mark.parametrize("lengths", [[3, 0, 1, 2], [0, 0], [1]], ids=["some", "none", "one"])
def test_each_example_gets_weighted_sums_of_its_own_events(lengths: list[int]) -> None:
    torch.manual_seed(0)
    block = Interest(DIM, interests=2, hidden=5).double()
    tokens = torch.randn(sum(lengths), DIM, dtype=torch.float64)
    target = torch.randn(len(lengths), DIM, dtype=torch.float64)
    expected = [restated(block, row, t) for row, t in zip(tokens.split(lengths), target, strict=True)]
    torch.testing.assert_close(block(tokens, offsets_of(lengths), target), torch.stack(expected))


def test_four_equal_events_say_twice_as_much_as_one() -> None:
    torch.manual_seed(0)
    block, event, target = Interest(DIM), torch.randn(1, DIM), torch.randn(1, DIM)
    once = block(event, offsets_of([1]), target)
    four = block(event.repeat(4, 1), offsets_of([4]), target)
    torch.testing.assert_close(four, 2 * once)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    block = Interest(DIM, hidden=3).double()
    inputs = [torch.randn(n, DIM, dtype=torch.float64, requires_grad=True) for n in (3, 2)]
    assert torch.autograd.gradcheck(lambda e, t: block(e, offsets_of([3, 0]), t), inputs)
