"""NE while a training runs, by hand."""

from __future__ import annotations

import pytest
import torch

from distill.running_ne import RunningNE

LN2 = 0.6931471805599453


def test_two_tasks_over_two_batches_with_unknown_labels() -> None:
    ne = RunningNE()
    ne.add(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[True, True], [True, False]]))
    ne.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[True, True], [True, False]]))
    # Known: 1 0 1 0 of the first task, 1 0 of the second; both at one half, ln 2 each.
    assert ne.of(2 * LN2) == pytest.approx(1.0)
    assert ne.of(0.5 * LN2) == pytest.approx(0.25)


def test_a_rate_other_than_one_half() -> None:
    ne = RunningNE()
    ne.add(torch.tensor([[1.0], [0.0], [0.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    assert ne.of(0.5623351446188083) == pytest.approx(1.0)  # H(1/4) = ln 4 - 3/4 ln 3


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_of_one_kind_say_nothing(label: float) -> None:
    ne = RunningNE()
    ne.add(torch.full((3, 2), label), torch.ones(3, 2, dtype=torch.bool))
    assert ne.of(0.3) is None


def test_nothing_seen() -> None:
    assert RunningNE().of(0.3) is None


def test_a_task_without_labels_does_not_count() -> None:
    ne = RunningNE()
    ne.add(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[True, False], [True, False]]))
    assert ne.of(LN2) == pytest.approx(1.0)
