"""The Student Adapter: what it hands on untrained, and what it makes of a stale and of a fresh teacher."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from adapters.student_adapter import StudentAdapter
from distill.batch import Batch, TeacherSignal
from tests.adapters.learnt_targets import SCHEMA, adapter, batch_of, own_state
from tests.students.models import make_student

STEPS, ROWS = 300, 256


def truth(step: int, shift: float) -> Batch:
    """Outcomes of a logit that differs from the teacher's by a constant, of the first task alone."""
    batch = batch_of(step, ROWS)
    generator = torch.Generator().manual_seed(step)
    logits = torch.randn(ROWS, 2, generator=generator) - 1
    labels = (
        torch.rand(ROWS, 2, generator=generator) < (logits + torch.tensor([shift, 0])).sigmoid()
    ).float()
    everything = torch.ones(ROWS, 2, dtype=torch.bool)
    signal = TeacherSignal(logits, everything[:, 0], torch.ones(ROWS))
    return replace(batch, labels=labels, label_mask=everything, matured=everything, teacher=signal)


def late_means(channel: StudentAdapter, shift: float) -> dict[str, float]:
    """What is logged of the last third of the steps; every batch is scored before it is learnt from."""
    student, sums = make_student("dlrm", SCHEMA), dict[str, float]()
    output = student(batch_of(0, ROWS))
    for step in range(STEPS):
        batch = truth(step, shift)
        channel.step(output, batch)
        if step >= STEPS * 2 // 3:
            for name, value in channel.loss(output, batch, student)[1].items():
                sums[name] = sums.get(name, 0) + value.item() / (STEPS - STEPS * 2 // 3)
    return sums


def default_adapter() -> StudentAdapter:
    return adapter(make_student("dlrm", SCHEMA), layers=[32])


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_it_corrects_a_stale_teacher(shift: float) -> None:
    """The least a constant shift can cost is the excess of the teacher's loss; most of it is won back."""
    channel = default_adapter()
    means = late_means(channel, shift)
    batches = [truth(step, shift) for step in range(STEPS * 2 // 3, STEPS)]
    best = sum(
        torch.nn.functional.binary_cross_entropy_with_logits(
            batch.teacher.logits.double() + torch.tensor([shift, 0]), batch.labels.double()
        ).item()
        * 2
        for batch in batches
        if batch.teacher is not None
    ) / len(batches)
    excess = means["teacher_loss"] - best
    assert excess > 0.05
    assert means["target_loss"] - best < 0.1 * excess


def test_it_leaves_a_fresh_teacher_about_as_it_is() -> None:
    means = late_means(default_adapter(), 0.0)
    assert means["target_loss"] == pytest.approx(means["teacher_loss"], rel=0.003)
    assert means["correction"] < 0.1


def test_untrained_it_hands_the_teacher_on() -> None:
    batch = batch_of()
    assert batch.teacher is not None
    logits, mask = adapter(make_student("dlrm", SCHEMA)).estimate(batch)
    assert torch.equal(logits, batch.teacher.logits) and torch.equal(mask, batch.teacher.mask)


def test_without_residual_it_starts_at_the_rates_and_hands_nothing_on() -> None:
    channel = adapter(make_student("dlrm", SCHEMA), residual=False, layers=[])
    with torch.no_grad():
        channel.estimator.get_parameter("0.weight").zero_()
    rates = {task: torch.tensor([0.2, math.nan, math.nan], dtype=torch.float64) for task in SCHEMA.task_names}
    channel.set_base_rates(rates)
    logits, _ = channel.estimate(batch_of())
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.2))
    assert channel.head.output.bias.tolist() == pytest.approx([math.log(0.2 / 0.8)] * 2)


def test_rates_move_the_head_and_leave_a_residual_at_zero() -> None:
    channel = adapter(make_student("dlrm", SCHEMA))
    before = own_state(channel)
    channel.set_base_rates({task: torch.tensor([0.2], dtype=torch.float64) for task in SCHEMA.task_names})
    assert all(torch.equal(before[name], tensor) for name, tensor in own_state(channel).items())
    assert channel.head.output.bias.tolist() == pytest.approx([math.log(0.2 / 0.8)] * 2)
