"""What adapter and gate read, column by column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adapters.adapter_config import LearntTargetConfig
from adapters.teacher_inputs import TeacherInputs
from distill.batch import Batch, TeacherSignal
from tests.adapters.learnt_targets import SCHEMA, batch_of

HOUR = 3_600_000


def batch_at(*hours: float) -> Batch:
    """Rows at these hours of a day in January 2026, on the surfaces 0, 1, 2, 0, ..."""
    batch = batch_of(0, len(hours))
    timestamp = torch.tensor([1_767_225_600_000 + int(hour * HOUR) for hour in hours])
    return replace(batch, timestamp=timestamp, domain=torch.arange(len(hours)) % 3)


def columns(batch: Batch, signals: list[TeacherSignal], **options: Any) -> np.ndarray:
    inputs = TeacherInputs(LearntTargetConfig(**options), SCHEMA, len(signals))
    found = inputs(batch, signals)
    assert found.shape == (len(batch), inputs.width) and found.dtype == torch.float32
    return found.numpy()


def signals_of(batch: Batch) -> list[TeacherSignal]:
    assert batch.teacher is not None
    return [replace(batch.teacher, age=torch.full((len(batch),), 3.0)), batch.others["apps"]]


def test_logits_of_all_tasks_of_every_teacher() -> None:
    batch = batch_at(0, 1)
    first, second = signals_of(batch)
    expected = np.concatenate([first.logits.numpy(), second.logits.numpy()], axis=1)
    np.testing.assert_array_equal(columns(batch, [first, second]), expected)


def test_surface() -> None:
    batch = batch_at(0, 1, 2, 3)
    found = columns(batch, signals_of(batch)[:1], surface=True)[:, 2:]
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_age_of_every_teacher() -> None:
    batch = batch_at(0, 1)
    first, second = signals_of(batch)
    found = columns(batch, [first, replace(second, age=torch.tensor([0.0, 7.0]))], age=True)[:, 4:]
    np.testing.assert_allclose(found, np.log([[4, 1], [4, 8]]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("hour", "expected"),
    [(0, (0, 1)), (6, (1, 0)), (12, (0, -1)), (18, (-1, 0)), (3, (0.5**0.5, 0.5**0.5)), (30, (1, 0))],
)
def test_hour_of_the_day(hour: float, expected: tuple[float, float]) -> None:
    batch = batch_at(hour)
    found = columns(batch, signals_of(batch)[:1], hour=True)[0, 2:]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_everything_side_by_side() -> None:
    batch = batch_at(1, 2)
    assert columns(batch, signals_of(batch), surface=True, age=True, hour=True).shape == (2, 4 + 2 + 3 + 2)
