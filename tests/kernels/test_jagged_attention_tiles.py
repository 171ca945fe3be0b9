"""The work list of jagged attention's GPU kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.jagged_attention.tiles import FIELDS, tiles
from tests.kernels.jagged_attention_cases import offsets_of

ROWS, OTHERS = [0, 5, 16, 1, 40, 0, 33], [2, 0, 7, 30, 7, 9, 1]


def real(found: Tensor) -> list[list[int]]:
    """The tiles that are some, in their order."""
    return [tile for tile in found.tolist() if 0 <= tile[0] < tile[2]]


def tokens_of(found: Tensor, block: int) -> list[int]:
    return sorted(
        begin + place
        for first, begin, length, _, _ in real(found)
        for place in range(first, min(first + block, length))
    )


@pytest.mark.parametrize("last_first", [False, True])
@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize(
    ("lengths", "others"), [(ROWS, OTHERS), ([3] * 9, [1] * 9), ([0, 0], [0, 4]), ([], [])]
)
def test_every_token_lies_in_one_tile(
    lengths: list[int], others: list[int], block: int, last_first: bool
) -> None:
    found = tiles(offsets_of(lengths), sum(lengths), offsets_of(others), sum(others), block, last_first)
    assert (
        found.shape == (-(-sum(lengths) // block) + len(lengths) + 1, FIELDS) and found.dtype == torch.int64
    )
    assert tokens_of(found, block) == list(range(sum(lengths)))
    assert all(first % block == 0 for first, *_ in real(found))


def test_a_tile_knows_its_row_on_both_sides() -> None:
    offsets, others = offsets_of(ROWS), offsets_of(OTHERS)
    rows = list(zip(offsets.tolist(), ROWS, others.tolist(), OTHERS, strict=False))
    found = real(tiles(offsets, sum(ROWS), others, sum(OTHERS), 16, False))
    assert {tuple(tile[1:]) for tile in found} == {row for row in rows if row[1]}


@pytest.mark.parametrize("last_first", [False, True])
def test_the_most_work_comes_first(last_first: bool) -> None:
    offsets, others = offsets_of(ROWS), offsets_of(OTHERS)
    found = real(tiles(offsets, sum(ROWS), others, sum(OTHERS), 16, last_first))
    work = [tile[4] for tile in found]
    assert work == sorted(work, reverse=True)
    within = [tile[0] for tile in found if tile[2] == 40]
    assert within == ([32, 16, 0] if last_first else [0, 16, 32])


def test_tokens_that_no_row_holds_meet_nothing() -> None:
    found = tiles(torch.tensor([0, 3]), 50, torch.tensor([0, 4]), 9, 16, False)
    assert tokens_of(found, 16) == list(range(50))
    assert {tuple(tile[1:]) for tile in real(found)} == {(0, 3, 0, 4), (3, 47, 4, 0)}


def test_no_tile_reaches_over_the_end_of_the_tokens() -> None:
    found = tiles(torch.tensor([0, 3, 90, 95]), 20, torch.tensor([0, 40, 41, 99]), 30, 16, False)
    assert tokens_of(found, 16) == list(range(20))
    assert all(
        begin + length <= 20 and other + others <= 30 for _, begin, length, other, others in real(found)
    )
