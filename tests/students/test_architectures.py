"""Every student against its equations, written out in numpy in double precision, one example after the
other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distill.batch import Batch
from experiments.benchmarks.synthetic import make_batch
from students.base import Student
from tests.students.models import (
    POOLED,
    Array,
    array,
    enlarge,
    event_rows,
    linear,
    make_student,
    prelu,
    relu_layers,
    rows,
    schema_of,
)

LENGTHS = [2, 0, 1, 4, 3]


def fields_of(student: Student, batch: Batch, reduce: Callable[..., Any] = np.mean) -> Array:
    fields = rows(student, batch)
    if student.history_pooling is None:
        return fields
    past = [reduce(e, axis=0) if len(e) else np.zeros(student.dim) for e in event_rows(student, batch)]
    return np.concatenate([fields, np.stack(past)[:, None]], axis=1)


def flat_of(student: Student, fields: Array, batch: Batch) -> Array:
    flat = fields.reshape(len(fields), -1)
    return np.concatenate([flat, array(batch.dense)], axis=1) if student.dense_features else flat


def pairs_of(fields: Array) -> Array:
    n = fields.shape[1]
    return np.array([[x[i] @ x[j] for i in range(n) for j in range(i)] for x in fields])


def dlrm(student: Any, batch: Batch, fields: Array) -> Array:
    if not student.dense_features:
        return relu_layers(student.top, pairs_of(fields))
    dense = relu_layers(student.bottom, array(batch.dense))
    pairs = pairs_of(np.concatenate([fields, dense[:, None]], axis=1))
    return relu_layers(student.top, np.concatenate([dense, pairs], axis=1))


def deepfm(student: Any, batch: Batch, fields: Array) -> Array:
    x = flat_of(student, fields, batch)
    second = pairs_of(fields).sum(1, keepdims=True)
    first = 0.5 * rows(student, batch, slice(4, 6)).sum(1)
    if student.history_length:
        mean = student.history_pooling == "mean"
        weights = event_rows(student, batch, slice(4, 6))
        past = [w.sum(0) / (max(len(w), 1) if mean else 1) for w in weights]
        first = first + 0.5 * np.stack(past)
    if student.dense_features:
        first = first + linear(student.first_order, array(batch.dense))
    return np.concatenate([relu_layers(student.deep, x), first, second], axis=1)


def dcn_v2(student: Any, batch: Batch, fields: Array) -> Array:
    first = x = flat_of(student, fields, batch)
    for layer in student.cross:
        low_rank = hasattr(layer.down, "weight")
        matrix = array(layer.up.weight) @ array(layer.down.weight) if low_rank else array(layer.up.weight)
        x = np.stack([f * (matrix @ v + array(layer.up.bias)) + v for f, v in zip(first, x, strict=True)])
    if student.stacked:
        return relu_layers(student.deep, x)
    return np.concatenate([x, relu_layers(student.deep, first)], axis=1)


def din(student: Any, batch: Batch, fields: Array) -> Array:
    assert batch.history is not None
    surfaces, labels = batch.history.domain.tolist(), batch.history.labels.tolist()
    vectors = array(student.context.vectors) if student.context is not None else None
    domains, tasks = len(student.schema.domains), len(student.schema.tasks)
    place = student.features.index(student.schema.item_feature)
    interests, event = [], 0
    for x, past in zip(fields, event_rows(student, batch), strict=True):
        weights, known = [], []
        for e in past:
            if vectors is not None:
                e = e + vectors[surfaces[event]]
                for task, label in enumerate(labels[event]):
                    if label >= 0:
                        e = e + vectors[domains + task + (0 if label == 1 else tasks)]
            event += 1
            t = x[place]
            unit = student.unit
            hidden = prelu(unit.activation, linear(unit.first, np.concatenate([e, t, e - t, e * t])))
            weights.append(linear(unit.last, hidden)[0])
            known.append(e)
        if student.softmax and weights:
            powers = np.exp(np.array(weights) - max(weights))
            weights = list(powers / powers.sum())
        interests.append(sum((w * e for w, e in zip(weights, known, strict=True)), np.zeros(student.dim)))
    dense = [array(batch.dense)] if student.dense_features else []
    x = np.concatenate([fields.reshape(len(fields), -1), np.stack(interests), *dense], axis=1)
    for place in range(0, len(student.deep), 2):
        x = prelu(student.deep[place + 1], linear(student.deep[place], x))
    return x


EQUATIONS: dict[str, Callable[[Any, Batch, Array], Array]] = {
    "dlrm": dlrm,
    "deepfm": deepfm,
    "dcn_v2": dcn_v2,
    "din": din,
}
CASES = [
    ("dlrm", {}, 2),
    ("dlrm", {"bottom": []}, 2),
    ("dlrm", {}, 0),
    ("dlrm", {"history_length": 4}, 0),
    ("deepfm", {}, 2),
    ("deepfm", {"history_length": 4}, 0),
    ("dcn_v2", {}, 2),
    ("dcn_v2", {"cross_rank": 3, "history_length": 4}, 2),
    ("dcn_v2", {"cross_rank": 0, "cross_layers": 1}, 0),
    ("dcn_v2", {"structure": "stacked"}, 2),
    ("din", {}, 2),
    ("din", {"event_context": False}, 0),
    ("din", {"softmax": True}, 2),
]


@pytest.mark.parametrize(("kind", "options", "dense"), CASES)
def test_equations(kind: str, options: dict[str, Any], dense: int) -> None:
    schema = schema_of(dense=dense)
    student = make_student(kind, schema, **options)
    enlarge(student)
    batch = make_batch(schema, LENGTHS, seed=1)
    penultimate = EQUATIONS[kind](student, batch, fields_of(student, batch))
    output = student(batch)
    np.testing.assert_allclose(array(output.taps["penultimate"]), penultimate, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(array(output.logits), linear(student.heads, penultimate), rtol=2e-5, atol=2e-5)


def test_penultimate_of_dice_and_deeper_units_is_finite_and_moves() -> None:
    schema = schema_of()
    student = make_student("din", schema, activation="dice", attention=[5, 4])
    enlarge(student)
    logits = student(make_batch(schema, LENGTHS, seed=1)).logits
    assert logits.isfinite().all() and logits.std(0).min() > 0


@pytest.mark.parametrize("kind", POOLED)
def test_sum_pooling(kind: str) -> None:
    schema = schema_of()
    student = make_student(kind, schema, history_length=4, history_pooling="sum")
    enlarge(student)
    batch = make_batch(schema, LENGTHS, seed=1)
    penultimate = EQUATIONS[kind](student, batch, fields_of(student, batch, np.sum))
    np.testing.assert_allclose(array(student(batch).taps["penultimate"]), penultimate, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("kind", "options", "dense"), CASES)
def test_taps_have_the_declared_widths(kind: str, options: dict[str, Any], dense: int) -> None:
    schema = schema_of(dense=dense)
    student = make_student(kind, schema, **options)
    taps = student(make_batch(schema, LENGTHS, seed=1)).taps
    assert {name: tap.shape[1] for name, tap in taps.items()} == student.tap_widths


@pytest.mark.parametrize("kind", EQUATIONS)
def test_embedding_tap_is_the_embeddings_side_by_side(kind: str) -> None:
    schema = schema_of()
    student, batch = make_student(kind, schema), make_batch(schema, LENGTHS, seed=1)
    expected = rows(student, batch).reshape(len(LENGTHS), -1)
    np.testing.assert_allclose(array(student(batch).taps["embedding"]), expected, rtol=1e-6)


def test_deepfm_starts_as_the_sum_of_its_parts() -> None:
    schema = schema_of()
    student: Any = make_student("deepfm", schema)
    weights = array(student.heads.weight)[:, 5:]
    np.testing.assert_array_equal(weights, [[1, 0, 1], [0, 1, 1]])
