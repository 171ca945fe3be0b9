"""Room for what channels give: further fields, and events of the history that the student itself does not read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.batch import Batch
from experiments.benchmarks.synthetic import make_batch
from students.base import Student
from tests.students.models import KINDS, POOLED, array, enlarge, event_rows, features_of, rows, schema_of

SCHEMA = schema_of()
LENGTHS = [2, 0, 1, 4, 3]


def student_of(kind: str, extra_fields: int = 0, extra_history: int = 0, **options: Any) -> Student:
    build, config = KINDS[kind]
    student = build(
        config(dim=4, mlp=[6, 5], **options),
        schema=SCHEMA,
        tasks=SCHEMA.task_names,
        features=features_of(SCHEMA),
        dense_features=SCHEMA.dense,
        seed=0,
        table_learning_rate=0.1,
        extra_fields=extra_fields,
        extra_history=extra_history,
    )
    enlarge(student)
    return student


def batch_of() -> Batch:
    return make_batch(SCHEMA, LENGTHS, seed=1)


class Given(nn.Module):
    """Fields that it was told; what it was called with is kept."""

    def __init__(self, fields: Tensor):
        super().__init__()
        self.fields, self.calls = fields, list[tuple[Tensor, ...]]()

    def forward(self, batch: Batch, *given: Tensor) -> Tensor:
        self.calls.append(given)
        return self.fields


@pytest.mark.parametrize("kind", KINDS)
def test_given_fields_stand_in_the_embedding_tap_behind_the_students_own(kind: str) -> None:
    student, batch = student_of(kind, extra_fields=3, extra_history=4), batch_of()
    first, second = torch.randn(5, 2, 4), torch.randn(5, 1, 4)
    student.inputs["first"], student.event_inputs["second"] = Given(first), Given(second)
    output = student(batch)
    expected = torch.cat([torch.from_numpy(rows(student, batch)).float(), first, second], dim=1)
    torch.testing.assert_close(output.taps["embedding"], expected.flatten(1))
    assert {name: tap.size(1) for name, tap in output.taps.items()} == student.tap_widths


@pytest.mark.parametrize("kind", KINDS)
def test_logits_depend_on_given_fields(kind: str) -> None:
    student, batch = student_of(kind, extra_fields=1), batch_of()
    logits = []
    for seed in (0, 1):
        student.inputs["one"] = Given(torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(seed)))
        logits.append(student(batch).logits)
    assert (logits[0] != logits[1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_modules_get_the_items_embedding_and_those_of_the_events(kind: str) -> None:
    student, batch = student_of(kind, extra_fields=2, extra_history=4), batch_of()
    plain, reader = Given(torch.zeros(5, 1, 4)), Given(torch.zeros(5, 1, 4))
    student.inputs["plain"], student.event_inputs["reader"] = plain, reader
    student(batch)
    item = rows(student, batch)[:, student.features.index(SCHEMA.item_feature)]
    (only,), (of_item, events) = plain.calls[0], reader.calls[0]
    assert (array(only) == item).all() and (array(of_item) == item).all()
    expected = [row for of_example in event_rows(student, batch) for row in of_example]
    assert array(events).tolist() == [row.tolist() for row in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_own_history_does_not_grow_with_what_channels_read(kind: str) -> None:
    alone, beside = student_of(kind, history_length=2), student_of(kind, history_length=2, extra_history=4)
    assert (alone.history_length, beside.history_length) == (2, 4)
    batch = batch_of()
    assert batch.history is not None
    short, _ = batch.history.last(2, batch.history.labels)
    assert torch.equal(beside(batch).logits, alone(replace(batch, history=short)).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_own_history_may_be_the_longer_one(kind: str) -> None:
    alone, beside = student_of(kind, history_length=4), student_of(kind, history_length=4, extra_history=2)
    assert beside.history_length == 4
    assert torch.equal(beside(batch_of()).logits, alone(batch_of()).logits)


@pytest.mark.parametrize("kind", POOLED)
def test_thin_student_stays_thin(kind: str) -> None:
    alone, beside = student_of(kind), student_of(kind, extra_history=4)
    assert (alone.history_length, beside.history_length) == (0, 4)
    assert alone.n_fields == beside.n_fields
    assert torch.equal(beside(batch_of()).logits, alone(batch_of()).logits)
