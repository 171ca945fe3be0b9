"""`level: labels`: the serving head has its level from the labels, the target says how rows of a surface differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapters.adapter_config import StudentAdapterConfig
from distill.batch import Batch, TeacherSignal
from distill.channel_config import SingleConfig
from distill.errors import UserError
from distill.levels import LevelGaps
from distill.losses import label_loss
from distill.protocols import Channel, Output
from distill.single import Single
from distill.single import build as build_single
from distill.structured import to_plain
from students.base import Student
from tests.adapters.learnt_targets import SCHEMA, adapter, batch_of
from tests.students.models import make_student

STEPS = 1000


def single(student: Student, **options: Any) -> Single:
    channel = build_single(SingleConfig(**options), SCHEMA, 0)
    channel.attach(student)
    return channel


def serving_adapter(student: Student, **options: Any) -> Channel:
    return adapter(student, head="serving", **options)


Make = Callable[..., Channel]
MAKES = pytest.mark.parametrize("make", [single, serving_adapter])


def gaps_of(channel: Channel) -> LevelGaps:
    (found,) = (module for module in channel.modules() if isinstance(module, LevelGaps))
    return found


def told(batch: Batch, logits: Tensor) -> Batch:
    """A teacher that knows every row."""
    mask = torch.ones(len(batch), dtype=torch.bool)
    return batch.with_teacher(TeacherSignal(logits.detach(), mask, mask.float()))


@MAKES
def test_begins_as_it_is_without(make: Make) -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    output = student(batch)
    losses = [make(student, level=level).loss(output, batch, student)[0] for level in ("target", "labels")]
    assert torch.equal(*losses)


@MAKES
def test_what_is_the_same_for_a_surface_sends_nothing_to_the_student(make: Make) -> None:
    """Gaps of their own for three surfaces and two tasks."""
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    channel, output = make(student, level="labels"), student(batch)
    shifts = torch.tensor([[0.5, -1.0], [2.0, 0.0], [-0.3, 0.7]])
    assert set(batch.domain.tolist()) == {0, 1, 2}
    told_shifted = told(batch, output.logits + shifts[batch.domain])
    with torch.no_grad():
        gaps_of(channel).gaps.weight.copy_(shifts.T)
    loss, _ = channel.loss(output, told_shifted, student)
    loss.backward()
    largest = max(p.grad.abs().max().item() for p in student.parameters() if p.grad is not None)
    assert largest < 1e-6


@MAKES
def test_the_models_optimiser_trains_the_gaps(make: Make) -> None:
    student = make_student("dlrm", SCHEMA)
    channel = make(student, level="labels")
    trained = list(channel.dense_parameters())
    assert [p.shape for p in trained] == [(2, 3)]
    assert trained[0] is gaps_of(channel).gaps.weight
    assert not list(make(student).dense_parameters())


def rates(level: str, make: Make) -> tuple[Tensor, Tensor]:
    """Mean prediction and label of each task after the served bias was trained beside a teacher that lies 1.5 too high.

    No label is matured, so that an adapter cannot correct the teacher.
    """
    student, batch = make_student("dlrm", SCHEMA), batch_of(rows=64)
    known = torch.ones_like(batch.label_mask)
    batch = replace(batch, matured=~known, label_mask=known)
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    batch = told(batch, batch.labels.mean(0).logit() + 1.5 + noise / 5)
    channel, output = make(student, level=level, weight=3.0), student(batch)
    logits, bias = output.logits.detach(), nn.Parameter(torch.zeros(2))
    adam = torch.optim.Adam([bias, *channel.dense_parameters()], lr=0.02)
    for _ in range(STEPS):
        adam.zero_grad()
        served = Output(logits + bias, output.taps)
        loss, _ = channel.loss(served, batch, student)
        (loss + label_loss(served.logits, batch.labels, batch.label_mask)).backward()
        adam.step()
    return (logits + bias).sigmoid().mean(0).detach(), batch.labels.mean(0)


@MAKES
def test_a_teacher_of_another_level_does_not_move_the_served_one(make: Make) -> None:
    served, labels = rates("labels", make)
    torch.testing.assert_close(served, labels, rtol=0, atol=1e-3)
    moved, _ = rates("target", make)
    assert (moved - labels > 0.1).all()


def test_only_a_head_that_is_served_has_a_level_to_protect() -> None:
    with pytest.raises(UserError, match=r"adapter\.level: got 'labels' with the head 'distill', allowed"):
        StudentAdapterConfig(level="labels")


def test_settings_that_do_not_name_it_keep_their_hash() -> None:
    for config in (SingleConfig, StudentAdapterConfig):
        assert "level" not in to_plain(config())
    assert to_plain(SingleConfig(level="labels"))["level"] == "labels"


def test_gaps_are_a_layer_without_bias() -> None:
    """As a bank can stack it."""
    (layer,) = (part for part in LevelGaps(3, 2).modules() if isinstance(part, nn.Linear))
    assert layer.bias is None and not layer.weight.any()
