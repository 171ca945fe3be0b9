"""Channels that give the student fields are served; what they read of the teacher is handed over by whoever asks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import experiments.catalog  # noqa: F401
from distill.batch import Batch, Past
from experiments.benchmarks.synthetic import make_batch, make_schema
from experiments.pipeline.build import build_channels
from students import deepfm
from students.base import Student
from students.config import DeepFMConfig
from students.export.rows import as_tensors, inputs_of, table_of
from students.export.serve import serve
from students.export.trace import trace

SCHEMA = make_schema([9, 7, 5], dense=2)
WIDTH = 8
"""Of the teacher's representations."""
SHARING = {"sharing": {"tables": ["item_id", "feature_1"], "dim": 8}}


def make(channels: dict[str, dict[str, Any]]) -> Student:
    """A student with these channels, random parameters everywhere."""
    built = build_channels(channels, SCHEMA, seed=0)
    student = deepfm.build(
        DeepFMConfig(dim=4, mlp=[8]),
        schema=SCHEMA,
        tasks=SCHEMA.task_names,
        features=tuple(SCHEMA.sparse),
        dense_features=SCHEMA.dense,
        seed=0,
        table_learning_rate=0.1,
        extra_fields=sum(len(channel.fields) for channel in built.values()),
        extra_history=max(channel.history_length for channel in built.values()),
    ).eval()
    for channel in built.values():
        channel.attach(student)
    torch.manual_seed(0)
    state = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in student.state_dict().items()}
    student.load_state_dict(state)
    return student


def asked(lengths: list[int]) -> Batch:
    """A batch with the teacher's representations: as many of each user, of every other item, and of most rows."""
    batch, rows = make_batch(SCHEMA, lengths, seed=0), len(lengths)
    generator = torch.Generator().manual_seed(1)
    per_item = torch.arange(rows) % 2
    past = {
        name: Past(
            torch.tensor([0, *counts]).cumsum(0),
            torch.randn(sum(counts), WIDTH, generator=generator),
            batch.timestamp.repeat_interleave(torch.tensor(counts))
            - 60_000 * torch.arange(1, sum(counts) + 1),
        )
        for name, counts in (("user", lengths), ("item", per_item.tolist()))
    }
    assert batch.teacher is not None
    said = replace(batch.teacher, representation=torch.randn(rows, WIDTH, generator=generator))
    return replace(batch, past=past, teacher=said)


CHANNELS: dict[str, dict[str, dict[str, Any]]] = {
    "sharing": SHARING,
    "rawid": {"rawid": {"history_length": 3}},
    "repr": {"repr": {"group": "both", "history_length": 3, "dim": 6}},
    "repr of items, current": {"repr": {"group": "item", "dim": 4}, "current": {"dim": 8}},
}


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
def test_served_fields_are_the_trained_ones(channels: dict[str, dict[str, Any]]) -> None:
    student, batch = make(channels), asked([0, 3, 1, 2, 0])
    served = serve(student, "fp32")
    inputs = inputs_of(served.signature, table_of(batch, served.signature))
    logits = served.module(*served.arrays.values(), *as_tensors(inputs))
    # Folding the projection into the rows adds up in another order.
    torch.testing.assert_close(logits, student(batch).logits, rtol=1e-5, atol=1e-5)


def test_stored_vectors_of_a_user_stand_once_in_a_request() -> None:
    """Four candidates, the first two of one user: each gets what it would get for itself."""
    student, batch = make(CHANNELS["repr"]), asked([3, 1, 2, 1])
    served = serve(student, "fp32")
    inputs = inputs_of(served.signature, table_of(batch, served.signature))
    program = trace(served.module, [*served.arrays.values(), *as_tensors(inputs)])
    shared = dict(inputs)
    shared["past_user_places"] = np.array([0, 1, 2, 0, 1, 2, 3, 4, 5])
    shared["past_user_offsets"] = np.array([0, 3, 6, 8, 9])
    alone = dict(shared)
    vectors, times = inputs["past_user_vectors"], inputs["past_user_times"]
    alone["past_user_vectors"], alone["past_user_times"] = (
        np.concatenate([values[:3], values[:6]]) for values in (vectors, times)
    )
    alone["past_user_places"] = np.arange(9)
    run = program.module(check_guards=False)
    of_shared, of_alone = (run(*served.arrays.values(), *as_tensors(given)) for given in (shared, alone))
    torch.testing.assert_close(of_shared, of_alone, rtol=0, atol=0)
    assert not torch.allclose(of_shared, run(*served.arrays.values(), *as_tensors(inputs)))


@pytest.mark.parametrize(
    "column,values,message",
    [
        ("past_user_vectors", [[[1.0] * 5]] * 2, "past_user_vectors: got a vector of 5 numbers, allowed: 6"),
        (
            "past_user_vectors",
            [[[1.0] * 6] * 4] * 2,
            "past_user_vectors: got 4 vectors in a row, allowed: at most 3",
        ),
        ("past_user_vectors", [[[float("nan")] * 6]] * 2, "past_user_vectors: got nan, allowed: finite"),
        ("past_user_vectors", [[1.0], []], "past_user_vectors: got double .*allowed: lists of 6 numbers"),
        (
            "past_item_times",
            [[1, 2], [3]],
            "past_item_times: got lists of other lengths than past_item_vectors",
        ),
        (
            "past_user_times",
            [[10**9], [10**9]],
            "past_user_times: got 1000000000 .*before the row's timestamp",
        ),
        ("past_item_vectors", None, "column 'past_item_vectors' is missing"),
    ],
)
def test_wrong_vectors_are_named(column: str, values: list[Any] | None, message: str) -> None:
    signature = serve(make(CHANNELS["repr"]), "fp32").signature
    table = table_of(asked([1, 1]), signature)
    place = table.column_names.index(column)
    changed = (
        table.drop_columns(column) if values is None else table.set_column(place, column, pa.array(values))
    )
    with pytest.raises(ValueError, match=message):
        inputs_of(signature, changed)


def test_rows_of_which_the_teacher_says_nothing_are_null() -> None:
    signature = serve(make({"current": {"dim": 8}}), "fp32").signature
    batch = asked([0] * 8)
    assert batch.teacher is not None
    table = table_of(batch, signature)
    assert [value is not None for value in table["teacher_vector"].to_pylist()] == batch.teacher.mask.tolist()
    assert inputs_of(signature, table)["teacher_vector_known"].tolist() == batch.teacher.mask.int().tolist()


class Unknown(nn.Module):
    """Makes fields of nobody knows what."""


def test_module_that_does_not_say_what_it_reads_is_refused() -> None:
    student = make({"sharing": SHARING["sharing"]})
    student.inputs["mine"] = Unknown()
    with pytest.raises(
        ValueError, match="export: channel 'mine' makes fields of what an export does not know"
    ):
        serve(student, "fp32")
