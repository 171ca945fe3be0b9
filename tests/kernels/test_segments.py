"""Sums, gathers and softmax over events, against Python loops."""

from __future__ import annotations

import pytest
import torch

from kernels.segments import Segments, pool, pool_mean, softmax, spread

LENGTHS = [[2, 0, 3, 1], [0, 0], [1], [0, 4, 0]]


def segments_of(lengths: list[int]) -> Segments:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Segments.of(offsets, sum(lengths))


def values_of(lengths: list[int], width: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(lengths))
    return torch.randn(sum(lengths), width, generator=generator, dtype=torch.float64).requires_grad_()


def cut(values: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, ...]:
    return values.split(lengths)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_rows_and_lengths(lengths: list[int]) -> None:
    segments = segments_of(lengths)
    assert segments.rows.tolist() == [b for b, length in enumerate(lengths) for _ in range(length)]
    assert segments.lengths.tolist() == lengths


@pytest.mark.parametrize("lengths", LENGTHS)
def test_pool_is_the_sum_of_each_part(lengths: list[int]) -> None:
    values = values_of(lengths)
    expected = torch.stack([part.sum(0) for part in cut(values, lengths)])
    torch.testing.assert_close(pool(values, segments_of(lengths)), expected)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_weighted_pool_is_the_sum_of_each_part_times_weights(lengths: list[int]) -> None:
    values = values_of(lengths)
    weights = torch.linspace(-1, 1, len(values), dtype=torch.float64)
    expected = torch.stack([part.sum(0) for part in cut(values * weights[:, None], lengths)])
    torch.testing.assert_close(pool(values, segments_of(lengths), weights), expected)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_mean_of_each_part_and_zero_of_none(lengths: list[int]) -> None:
    values = values_of(lengths)
    parts = [part.mean(0) if len(part) else torch.zeros(3).double() for part in cut(values, lengths)]
    torch.testing.assert_close(pool_mean(values, segments_of(lengths)), torch.stack(parts))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_spread_gives_every_event_its_example(lengths: list[int]) -> None:
    values = values_of([len(lengths)])
    expected = torch.cat([row.expand(length, -1) for row, length in zip(values, lengths, strict=True)])
    torch.testing.assert_close(spread(values, segments_of(lengths)), expected)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_softmax_of_each_part(lengths: list[int]) -> None:
    scores = 400 * values_of(lengths, width=1)[:, 0]
    expected = torch.cat([part.softmax(0) for part in cut(scores, lengths)])
    torch.testing.assert_close(softmax(scores, segments_of(lengths)), expected)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_softmax_of_each_column_by_itself(lengths: list[int]) -> None:
    scores = values_of(lengths)
    expected = torch.cat([part.softmax(0) for part in cut(scores, lengths)])
    torch.testing.assert_close(softmax(scores, segments_of(lengths)), expected)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_several_models_read_the_same_segments(lengths: list[int]) -> None:
    segments, one = segments_of(lengths), values_of(lengths)
    both, rows = torch.stack([one, 2 - one]), values_of([2 * len(lengths)]).view(2, -1, 3)
    for function, values in ((pool, both), (pool_mean, both), (softmax, both), (spread, rows)):
        expected = torch.stack([function(of_model, segments) for of_model in values])
        torch.testing.assert_close(function(values, segments), expected)
    weights = both[..., 0]
    expected = torch.stack([pool(x, segments, w) for x, w in zip(both, weights, strict=True)])
    torch.testing.assert_close(pool(both, segments, weights), expected)


@pytest.mark.parametrize("lengths", [[2, 0, 3, 1], [0, 4, 0]])
def test_gradients(lengths: list[int]) -> None:
    segments, values = segments_of(lengths), values_of(lengths)
    weights = values_of(lengths, width=1)[:, 0].detach().clone().requires_grad_()
    examples = values_of([len(lengths)])
    assert torch.autograd.gradcheck(lambda x: pool(x, segments), values)
    assert torch.autograd.gradcheck(lambda x, w: pool(x, segments, w), (values, weights))
    assert torch.autograd.gradcheck(lambda x: spread(x, segments), examples)
    assert torch.autograd.gradcheck(lambda s: softmax(s, segments), weights)
    assert torch.autograd.gradcheck(lambda s: softmax(s, segments), values)
