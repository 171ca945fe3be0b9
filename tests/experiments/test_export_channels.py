"""Channels that give the student fields: those that can be served are, the others are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import experiments.catalog  # noqa: F401
from experiments.benchmarks.synthetic import make_batch, make_schema
from experiments.pipeline.build import build_channels
from students import deepfm
from students.base import Student
from students.config import DeepFMConfig
from students.export.rows import as_tensors, inputs_of, table_of
from students.export.serve import serve

SCHEMA = make_schema([9, 7, 5], dense=2)
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


@pytest.mark.parametrize("channels", [SHARING, {"rawid": {"history_length": 3}}], ids=["sharing", "rawid"])
def test_served_fields_are_the_trained_ones(channels: dict[str, dict[str, Any]]) -> None:
    student, batch = make(channels), make_batch(SCHEMA, [0, 3, 1, 2, 0], seed=0)
    served = serve(student, "fp32")
    inputs = inputs_of(served.signature, table_of(batch, served.signature))
    logits = served.module(*served.arrays.values(), *as_tensors(inputs))
    # Folding the projection into the rows adds up in another order.
    torch.testing.assert_close(logits, student(batch).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channel", ["repr", "current"])
def test_what_reads_the_teacher_when_serving_is_refused(channel: str) -> None:
    with pytest.raises(ValueError, match=f"export: channel '{channel}' makes fields of the teacher's"):
        serve(make({channel: {}}), "fp32")
