"""The gate of several teachers: mixtures, weights by example, and the plain mean as its control."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adapters.adapter_config import GatedConfig
from adapters.gate import Gated, mixture_logits
from distill.batch import Batch, TeacherSignal
from distill.errors import UserError
from tests.adapters.learnt_targets import SCHEMA, array, batch_of, gated, own_state, sigmoid, stir, target
from tests.students.models import make_student


def gate(**options: Any) -> Gated:
    return gated(make_student("dlrm", SCHEMA), **options)


def test_mixture_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 2, generator=generator) * 3
    weights = torch.randn(5, 3, 2, generator=generator).softmax(1)
    p = (array(weights) * sigmoid(array(logits))).sum(1)
    np.testing.assert_allclose(array(mixture_logits(logits, weights.log())), np.log(p / (1 - p)), rtol=1e-4)


@pytest.mark.parametrize("size", [40.0, 1000.0])
def test_mixture_of_extreme_logits_is_finite(size: float) -> None:
    """Where sigmoid is 0 or 1 in float32, and p or 1 - p has no logarithm."""
    logits = torch.tensor([[[size], [size]], [[-size], [-size]], [[size], [-size]]], requires_grad=True)
    found = mixture_logits(logits, torch.full((3, 2, 1), 0.5).log())
    assert found.flatten().tolist() == pytest.approx([size, -size, 0])
    found.sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_it_starts_as_the_plain_mean() -> None:
    batch = batch_of()
    found, mask = gate().estimate(batch)
    equal, _ = gate(gate="equal").estimate(batch)
    expected, known = target(gate(gate="equal"), batch)
    assert mask.tolist() == known.tolist()
    torch.testing.assert_close(found, equal)
    np.testing.assert_allclose(array(found.sigmoid())[known], expected[known], rtol=1e-5)


def test_a_teacher_without_a_signal_has_no_weight() -> None:
    batch, channel = batch_of(), gate()
    stir(channel)
    other = batch.others["apps"]
    assert batch.teacher is not None
    alone = batch.teacher.mask & ~other.mask
    assert alone.any() and not alone.all()
    logits, _ = channel.estimate(batch)
    torch.testing.assert_close(logits[alone], batch.teacher.logits[alone])


def test_no_gradient_is_lost_to_a_teacher_without_a_signal() -> None:
    channel, batch = gate(), batch_of()
    channel.estimate(batch)[0].square().sum().backward()
    grads = [p.grad for p in channel.estimator.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_equal_learns_nothing() -> None:
    channel, student, batch = gate(gate="equal"), make_student("dlrm", SCHEMA), batch_of()
    before = {name: tensor.clone() for name, tensor in channel.state_dict().items()}
    channel.step(student(batch), batch)
    assert channel.optimizer is None and not own_state(channel)
    assert all(torch.equal(before[name], tensor) for name, tensor in channel.state_dict().items())


def experts(step: int, rows: int = 256) -> Batch:
    """The own teacher knows the first surface, the other one the rest; elsewhere each says what is wrong."""
    batch, generator = batch_of(step, rows), torch.Generator().manual_seed(step)
    logits = 2 * torch.randn(rows, 2, generator=generator)
    labels = (torch.rand(rows, 2, generator=generator) < logits.sigmoid()).float()
    first, everything = (batch.domain == 0).unsqueeze(1), torch.ones(rows, 2, dtype=torch.bool)
    own, other = torch.where(first, logits, -logits), torch.where(first, -logits, logits)
    signal = TeacherSignal(own, everything[:, 0], torch.zeros(rows))
    return replace(
        batch,
        labels=labels,
        matured=everything,
        teacher=signal,
        others={"apps": replace(signal, logits=other)},
    )


def test_it_finds_who_knows_which_surface() -> None:
    channel, student = gate(surface=True, layers=[16], learning_rate=0.01), make_student("dlrm", SCHEMA)
    output = student(experts(0))
    for step in range(200):
        channel.step(output, experts(step))
    batch = experts(1000)
    channel.step(output, batch)
    _, logs = channel.loss(output, batch, student)
    own = channel.log_weights(batch, channel._signals(batch), torch.ones(256, 2, dtype=torch.bool)).exp()[
        :, 0
    ]
    assert own[batch.domain == 0].min() > 0.8 and own[batch.domain != 0].max() < 0.2
    equal = gate(gate="equal")
    equal.step(output, batch)
    _, by_mean = equal.loss(output, batch, student)
    assert logs["target_loss"] < min(by_mean["target_loss"], logs["teacher_loss"]) - 0.1
    shares = logs["weight_own"].item(), logs["weight_apps"].item()
    assert sum(shares) == pytest.approx(1, rel=1e-5)
    assert shares[0] == pytest.approx(own.mean().item(), rel=0.05)


def test_mean_weights_are_over_the_rows_with_a_signal() -> None:
    channel, student, batch = gate(), make_student("dlrm", SCHEMA), batch_of()
    assert batch.teacher is not None
    known = np.stack([batch.teacher.mask.numpy(), batch.others["apps"].mask.numpy()], axis=1)
    each = known / np.maximum(known.sum(1, keepdims=True), 1)
    expected = each[known.any(1)].mean(0)
    channel.step(student(batch), batch)
    _, logs = channel.loss(student(batch), batch, student)
    assert [logs["weight_own"].item(), logs["weight_apps"].item()] == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ((), "gated.teachers: got 2, allowed: 1, the student's teacher alone"),
        (("apps", "web"), "gated.teachers: got 2, allowed: 3, the student's teacher and apps, web"),
    ],
)
def test_another_number_of_teachers_is_refused(others: tuple[str, ...], message: str) -> None:
    channel, batch = gate(), batch_of()
    batch = replace(batch, others=dict.fromkeys(others, batch.others["apps"]))
    with pytest.raises(UserError) as caught:
        channel.step(make_student("dlrm", SCHEMA)(batch), batch)
    assert str(caught.value) == message


def test_a_single_teacher_is_refused() -> None:
    with pytest.raises(UserError, match="gated.teachers: got 1, allowed: 2 or more. Use `ah` or `adapter`"):
        GatedConfig(teachers=1)
