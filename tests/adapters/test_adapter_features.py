"""A Student Adapter that reads ids and learns from other surfaces' labels, and one that speaks to the serving head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from adapters.adapter_config import StudentAdapterConfig
from adapters.student_adapter import StudentAdapter, build
from distill.batch import Batch
from distill.errors import UserError
from tests.adapters.learnt_targets import SCHEMA, adapter, array, batch_of, network, stir
from tests.students.models import make_student

IDS = list(SCHEMA.sparse)[:2]


def by_id(seed: int, rows: int = 256) -> Batch:
    """Labels that follow the teacher but for the first feature's ids, of which each has a logit of its own."""
    batch = batch_of(seed, rows)
    assert batch.teacher is not None
    ids = batch.sparse[IDS[0]].values()
    logits = torch.zeros(rows, 2)
    truth = torch.tensor([-2.0, 2, -1, 1, 3, -3, 0])[ids].unsqueeze(1).expand(rows, 2)
    draw = torch.rand(rows, 2, generator=torch.Generator().manual_seed(seed))
    everything = torch.ones(rows, 2, dtype=torch.bool)
    signal = replace(batch.teacher, logits=logits, mask=everything[:, 0])
    labels = (draw < truth.sigmoid()).float()
    return replace(batch, labels=labels, label_mask=everything, matured=everything, teacher=signal)


def learnt(channel: StudentAdapter, steps: int = 150) -> float:
    """Log-loss of the target on rows that come after some steps."""
    student = make_student("dlrm", SCHEMA)
    for seed in range(steps):
        batch = by_id(seed)
        channel.step(student(batch), batch)
    batch = by_id(steps, 2048)
    with torch.no_grad():
        return binary_cross_entropy_with_logits(channel.estimate(batch)[0], batch.labels).item()


def with_features(**options: Any) -> StudentAdapter:
    return adapter(make_student("dlrm", SCHEMA), layers=[16], features=IDS, **options)


def test_with_ids_it_learns_what_logits_cannot_tell() -> None:
    """The teacher says 0 of everybody: log 2; the truth of these seven ids is worth .42."""
    assert learnt(adapter(make_student("dlrm", SCHEMA), layers=[16])) > 0.68
    assert learnt(with_features(table_learning_rate=0.1)) < 0.48


def test_the_target_is_the_network_of_logits_and_rows() -> None:
    channel, batch = with_features(), batch_of(3)
    stir(channel)
    assert channel.ids is not None and batch.teacher is not None
    rows = array(channel.ids.tables(batch.sparse).features)  # [B, n, D]
    tables = channel.ids.tables.export()
    for place, name in enumerate(IDS):
        # Of one id an example; its row, by hand.
        of_feature = batch.sparse[name]
        ids = np.split(of_feature.values().numpy(), of_feature.offsets().numpy()[1:-1])
        weight = array(tables[f"{name}.weight"])
        assert np.allclose(rows[:, place], [weight[own].sum(0) for own in ids])
    own = array(batch.teacher.logits)
    expected = own + network(channel, np.concatenate([own, rows.reshape(len(batch), -1)], axis=1))
    assert np.allclose(array(channel.estimate(batch)[0]), expected, atol=1e-5)


def test_only_its_own_step_moves_the_tables() -> None:
    student, channel, batch = make_student("dlrm", SCHEMA), with_features(), batch_of(4)
    stir(channel)
    before = {name: tensor.clone() for name, tensor in channel.state_dict().items()}
    output = student(batch)
    channel.loss(output, batch, student)[0].backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in channel.state_dict().items())
    channel.step(output, batch)
    moved = {name for name, tensor in channel.state_dict().items() if not torch.equal(before[name], tensor)}
    assert any(name.startswith("ids.") for name in moved)


def test_on_the_serving_head_it_is_single_with_a_corrected_teacher() -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of(5)
    channel = adapter(student, head="serving", weight=2.0)
    stir(channel)
    assert channel.touches_serving_head and not list(channel.dense_parameters())
    output = student(batch)
    target, known = channel.estimate(batch)
    z, p = array(output.logits)[known], 1 / (1 + np.exp(-array(target)[known]))
    expected = 2 * (np.log1p(np.exp(z)) - p * z).mean(axis=0).sum()
    assert channel.loss(output, batch, student)[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"labels": "all"},
            r"adapter\.labels: got 'all', allowed: own, because adapter\.other_surfaces is 0",
        ),
        ({"features": ["item_id", "item_id"]}, r"adapter\.features: got .*, allowed: every feature once"),
        ({"dim": 6}, r"adapter\.dim: got 6, allowed: multiples of 4"),
        ({"table_learning_rate": 0.0}, r"adapter\.table_learning_rate: got 0\.0, allowed: more than 0"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StudentAdapterConfig(**options)


def test_features_that_nobody_has_or_the_student_does_not_read() -> None:
    with pytest.raises(
        UserError, match=r"adapter\.features: got 'colour', allowed: sparse features of the data"
    ):
        build(StudentAdapterConfig(features=["colour"]), SCHEMA, 0)
    channel = build(StudentAdapterConfig(features=[IDS[1]]), SCHEMA, 0)
    student = make_student("dlrm", SCHEMA)
    student.features = (IDS[0],)
    with pytest.raises(UserError, match="allowed: sparse features that the student reads"):
        channel.attach(student)
