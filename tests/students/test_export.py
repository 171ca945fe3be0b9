"""Served students compute what trained ones do, with tables of fewer bits nearly so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments.benchmarks.synthetic import make_batch, make_schema
from students import dcn_v2, deepfm, din, dlrm
from students.base import Student
from students.config import DCNv2Config, DeepFMConfig, DINConfig, DLRMConfig
from students.export.rows import as_tensors, inputs_of, table_of
from students.export.serve import serve
from students.export.tables import encode, gather

SCHEMA = make_schema([9, 7, 5], dense=2)
BUILDERS: dict[str, tuple[Any, Any]] = {
    "dlrm": (dlrm.build, DLRMConfig(dim=4, mlp=[8], bottom=[4])),
    "deepfm": (deepfm.build, DeepFMConfig(dim=4, mlp=[8], history_length=3)),
    "dcn_v2": (dcn_v2.build, DCNv2Config(dim=4, mlp=[8], history_length=3, history_pooling="sum")),
    "din": (din.build, DINConfig(dim=4, mlp=[8], attention=[4], history_length=3, softmax=True)),
}


def make(name: str) -> Student:
    build, config = BUILDERS[name]
    student = build(
        config,
        schema=SCHEMA,
        tasks=SCHEMA.task_names,
        features=tuple(SCHEMA.sparse),
        dense_features=SCHEMA.dense,
        seed=0,
        table_learning_rate=0.1,
    ).eval()
    student.load_state_dict({name: torch.randn_like(value) for name, value in student.state_dict().items()})
    return student


@pytest.mark.parametrize("name", BUILDERS)
def test_served_student_gives_the_trained_ones_logits(name: str) -> None:
    torch.manual_seed(0)
    student, batch = make(name), make_batch(SCHEMA, [0, 3, 1, 2, 0], seed=0)
    served = serve(student, "fp32")
    inputs = inputs_of(served.signature, table_of(batch, served.signature))
    logits = served.module(*served.arrays.values(), *as_tensors(inputs))
    torch.testing.assert_close(logits, student(batch).logits, rtol=1e-6, atol=1e-6)


def test_int8_rows_are_within_half_a_step() -> None:
    rows = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    got = gather(encode(rows, "int8"), torch.arange(20))
    step = (rows.amax(1) - rows.amin(1)) / 255
    assert bool(((got - rows).abs() <= 0.501 * step.unsqueeze(1)).all())


def test_row_of_equal_numbers_is_kept_exactly() -> None:
    rows = torch.full((2, 4), 0.3)
    torch.testing.assert_close(gather(encode(rows, "int8"), torch.tensor([1, 0])), rows, rtol=0, atol=0)
