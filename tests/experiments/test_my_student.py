"""The worked example of a user's own architecture: built from its file, trained, and held to every student's
duties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill import user_file
from distill.errors import UserError
from distill.losses import label_loss
from distill.protocols import Architecture
from experiments.benchmarks.synthetic import make_batch, make_schema

EXAMPLES = Path(__file__).parents[2] / "experiments" / "examples"
SCHEMA = make_schema([7, 5], dense=2)


def build(**options: object) -> Architecture:
    return user_file.build(
        "my_student.py:MyStudent",
        EXAMPLES,
        options,
        schema=SCHEMA,
        tasks=SCHEMA.task_names,
        features=tuple(SCHEMA.sparse),
        dense_features=SCHEMA.dense,
        seed=0,
        table_learning_rate=0.1,
    )


def test_equation() -> None:
    student, batch = build(hidden=3, dim=4), make_batch(SCHEMA, [0, 0], seed=0)
    output = student(batch)
    state = {name: tensor.double().numpy() for name, tensor in student.state_dict().items()}
    x = np.concatenate([output.taps["embedding"].detach().numpy(), batch.dense.numpy()], axis=1)
    gated = x / (1 + np.exp(-(x @ state["gate.weight"].T + state["gate.bias"])))
    hidden = np.maximum(gated @ state["layer.weight"].T + state["layer.bias"], 0)
    logits = hidden @ state["heads.weight"].T + state["heads.bias"]
    np.testing.assert_allclose(output.logits.detach().numpy(), logits, rtol=1e-5, atol=1e-6)


def test_it_learns() -> None:
    student, batch = build(history_length=3), make_batch(SCHEMA, [2] * 32, seed=0)
    adam = torch.optim.Adam(student.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        adam.zero_grad()
        loss = label_loss(student(batch).logits, batch.labels, batch.label_mask)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_wrong_option_is_named_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match="options: got 'hiden', allowed: hidden, dim, .*Did you mean 'hidden'"
    ):
        build(hiden=3)
