"""The history of a batch: its last events, and what is known of each as zeros and ones."""

from __future__ import annotations

import pytest
import torch

from distill.batch import Events

LENGTHS = [3, 0, 1, 5]


def events_of(lengths: list[int], tasks: int = 2) -> Events:
    """Every column tells its events apart."""
    count = sum(lengths)
    places = torch.arange(count)
    labels = torch.stack([places % 3 - 1, (places + 1) % 3 - 1][:tasks], dim=1).to(torch.int8)
    return Events(torch.tensor([0, *lengths]).cumsum(0), places, 100 + places, places % 4, labels)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 9])
def test_last_events_of_every_example(length: int) -> None:
    events = events_of(LENGTHS)
    rows = torch.arange(2.0 * sum(LENGTHS)).view(-1, 2)
    last, kept = events.last(length, rows)
    places, offsets, end = list[int](), [0], 0
    for of_example in LENGTHS:
        end += of_example
        places += range(end - min(of_example, length), end)
        offsets.append(len(places))
    assert last.offsets.tolist() == offsets
    for name in ("item", "time", "domain", "labels"):
        assert torch.equal(getattr(last, name), getattr(events, name)[places])
    assert torch.equal(kept, rows[places])


def test_last_of_no_events() -> None:
    last, kept = events_of([0, 0]).last(3, torch.zeros(0, 2))
    assert last.offsets.tolist() == [0, 0, 0] and last.item.numel() == 0 and kept.shape == (0, 2)


def test_gradient_reaches_the_last_rows_only() -> None:
    rows = torch.zeros(sum(LENGTHS), 1, requires_grad=True)
    events_of(LENGTHS).last(2, rows)[1].sum().backward()
    assert rows.grad is not None and rows.grad[:, 0].tolist() == [0, 1, 1, 1, 0, 0, 0, 1, 1]


def test_flags_are_surface_then_positive_then_negative_labels() -> None:
    labels = torch.tensor([[1, 0], [-1, 1], [0, -1]], dtype=torch.int8)
    zeros = torch.zeros(3, dtype=torch.int64)
    events = Events(torch.tensor([0, 3]), zeros, zeros, torch.tensor([2, 0, 1]), labels)
    expected = [[0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1, 0]]
    assert events.flags(3).tolist() == expected
    assert events.flags(3, torch.float64).dtype == torch.float64
