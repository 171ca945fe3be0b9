"""What every student owes: gradients everywhere, no row that knows another, seeds, base rates, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchrec import KeyedJaggedTensor

from distill.batch import Batch, Events
from distill.errors import UserError
from distill.losses import label_loss
from experiments.benchmarks.synthetic import make_batch
from students.base import Student
from tests.students.models import KINDS, POOLED, enlarge, features_of, make_student, schema_of

LENGTHS = [2, 0, 1, 4, 3]
RICH: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"history_length": 4}) for kind in KINDS),
    ("din", {"history_length": 4, "activation": "dice"}),
    ("din", {"history_length": 4, "softmax": True}),
]


def loss_of(student: Student, batch: Batch) -> torch.Tensor:
    return label_loss(student(batch).logits, batch.labels, batch.label_mask)


def reordered(batch: Batch, order: list[int]) -> Batch:
    """The same examples in another order, each with its own history."""
    assert batch.history is not None
    places = torch.tensor(order)
    history = batch.history
    parts = [
        torch.arange(a, b)
        for a, b in zip(history.offsets.tolist(), history.offsets.tolist()[1:], strict=False)
    ]
    events = torch.cat([parts[place] for place in order])
    lengths = history.offsets.diff()[places]
    keys = list(batch.sparse.keys())
    values = torch.cat([batch.sparse[key].values()[places] for key in keys])
    return replace(
        batch,
        sparse=KeyedJaggedTensor.from_lengths_sync(keys, values, torch.ones(len(values), dtype=torch.int64)),
        dense=batch.dense[places],
        history=Events(
            torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            history.item[events],
            history.time[events],
            history.domain[events],
            history.labels[events],
        ),
    )


@pytest.mark.parametrize(("kind", "options"), RICH)
def test_every_parameter_and_table_is_trained(kind: str, options: dict[str, Any]) -> None:
    schema = schema_of()
    student, batch = make_student(kind, schema, **options), make_batch(schema, [4] * 64, seed=1)
    enlarge(student)
    before = student.tables.export()
    loss_of(student, batch).backward()
    still = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    after = student.tables.export()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize(("kind", "options"), RICH)
def test_an_example_does_not_depend_on_its_place(kind: str, options: dict[str, Any]) -> None:
    schema = schema_of()
    student, batch = make_student(kind, schema, **options).eval(), make_batch(schema, LENGTHS, seed=1)
    enlarge(student)
    order = [3, 1, 4, 0, 2]
    expected = student(batch).logits[order]
    torch.testing.assert_close(student(reordered(batch, order)).logits, expected)


@pytest.mark.parametrize(("kind", "options"), RICH)
@pytest.mark.parametrize("lengths", [[0, 0, 0], [1, 0, 1], [1]])
def test_no_history_and_single_events(kind: str, options: dict[str, Any], lengths: list[int]) -> None:
    schema = schema_of()
    student, batch = make_student(kind, schema, **options), make_batch(schema, lengths, seed=1)
    loss = loss_of(student, batch)
    loss.backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kind", POOLED)
def test_thin_student_ignores_the_history(kind: str) -> None:
    schema = schema_of()
    student, batch = make_student(kind, schema), make_batch(schema, LENGTHS, seed=1)
    assert student.history_length == 0
    assert torch.equal(student(batch).logits, student(replace(batch, history=None)).logits)


def test_din_ignores_unknown_labels_only() -> None:
    schema = schema_of()
    student, batch = make_student("din", schema), make_batch(schema, [3, 2], seed=1)
    enlarge(student)
    assert batch.history is not None
    logits = [
        student(
            replace(
                batch, history=replace(batch.history, labels=torch.full_like(batch.history.labels, label))
            )
        ).logits
        for label in (-1, 0, 1)
    ]
    bare: Any = make_student("din", schema)
    enlarge(bare)
    with torch.no_grad():
        bare.context.vectors[len(schema.domains) :] = 0
    torch.testing.assert_close(logits[0], bare(batch).logits)
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[1], logits[2])


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_student(kind: str) -> None:
    schema = schema_of()
    torch.manual_seed(1)
    first = make_student(kind, schema, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = (
        make_student(kind, schema, seed=3).state_dict(),
        make_student(kind, schema, seed=4).state_dict(),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["heads.weight"], other["heads.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_building_leaves_the_global_generator_alone(kind: str) -> None:
    schema = schema_of()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    make_student(kind, schema)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_base_rates(kind: str) -> None:
    schema = schema_of()
    student = make_student(kind, schema)
    nan = math.nan
    rates = {
        "click": torch.tensor([nan, 0.2, nan], dtype=torch.float64),
        "conversion": torch.tensor([0.1, nan, 0.3], dtype=torch.float64),
    }
    student.set_base_rates(rates)
    assert student.heads.bias.tolist() == pytest.approx([math.log(0.2 / 0.8), math.log(0.2 / 0.8)])


def test_a_task_subset_has_its_own_heads() -> None:
    schema = schema_of()
    build, config = KINDS["deepfm"]
    student = build(
        config(dim=4),
        schema=schema,
        tasks=("conversion",),
        features=features_of(schema),
        dense_features=schema.dense,
        seed=0,
        table_learning_rate=0.1,
    )
    assert student.task_index == [1]
    assert student(make_batch(schema, LENGTHS, seed=1)).logits.shape == (5, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ("item_id", "featur_1")}, "features: got 'featur_1'.*Did you mean 'feature_1'"),
        ({"features": ("feature_1", "feature_2")}, "share the table of 'item_id'"),
        ({"features": ()}, "features: got none"),
        ({"features": ("item_id", "item_id")}, "'item_id' stands twice"),
        ({"tasks": ("clicks",)}, "tasks: got 'clicks'.*Did you mean 'click'"),
        ({"dense_features": ("dense_9",)}, "dense: got 'dense_9', allowed: dense_0, dense_1"),
    ],
)
def test_names_that_the_schema_lacks_are_refused(changes: dict[str, Any], message: str) -> None:
    schema = schema_of()
    arguments: dict[str, Any] = {
        "schema": schema,
        "tasks": schema.task_names,
        "features": features_of(schema),
        "dense_features": schema.dense,
        "seed": 0,
        "table_learning_rate": 0.1,
    }
    build, config = KINDS["din"]
    with pytest.raises(UserError, match=message):
        build(config(dim=4), **{**arguments, **changes})
