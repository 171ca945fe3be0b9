"""Distillation on the serving head, plain and of privileged features: its losses, its gradients, its warm-up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.batch import Batch, TeacherSignal
from distill.channel_config import DistillationLoss, PrivilegedFeaturesConfig, SingleConfig
from distill.errors import UserError
from distill.losses import label_loss
from distill.pfd import PrivilegedFeatures
from distill.pfd import build as build_pfd
from distill.single import Single
from distill.single import build as build_single
from experiments.benchmarks.synthetic import make_batch, make_schema
from students.base import Student
from tests.students.models import make_student

SCHEMA = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"))
KINDS: tuple[DistillationLoss, ...] = ("bce", "mse_logit", "mse_probability")


def batch_of(seed: int = 0, rows: int = 6) -> Batch:
    return make_batch(SCHEMA, [0] * rows, seed)


def single(student: Student, **options: Any) -> Single:
    channel = build_single(SingleConfig(**options), SCHEMA, 0)
    channel.attach(student)
    return channel


def pfd(student: Student, **options: Any) -> PrivilegedFeatures:
    channel = build_pfd(PrivilegedFeaturesConfig(**options), SCHEMA, 0)
    channel.attach(student)
    return channel


def gradients(student: Student, channel: Single, batch: Batch) -> dict[str, Tensor]:
    """What the channel's loss alone sends to the student's dense parameters."""
    loss, _ = channel.loss(student(batch), batch, student)
    names, parameters = zip(*student.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True))


def of_row(kind: str, logit: float, teacher: float) -> float:
    p, target = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(-teacher))
    if kind == "bce":
        return -target * math.log(p) - (1 - target) * math.log(1 - p)
    return (logit - teacher) ** 2 if kind == "mse_logit" else (p - target) ** 2


def by_hand(kind: str, logits: Tensor, batch: Batch, weights: tuple[float, float]) -> float:
    """For each task the mean over the rows with a signal, times its weight."""
    teacher = batch.teacher
    assert teacher is not None
    rows = [row for row in range(len(batch)) if teacher.mask[row]]
    losses = (
        weights[k] * of_row(kind, logits[row, k].item(), teacher.logits[row, k].item())
        for row in rows
        for k in range(2)
    )
    return sum(losses) / len(rows)


@pytest.mark.parametrize("make", [single, pfd])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_by_hand(make: Any, kind: DistillationLoss) -> None:
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    options = {"warmup_examples": 0} if make is pfd else {}
    channel = make(student, weight=0.3, loss=kind, task_weights={"conversion": 2.0}, **options)
    output = student(batch)
    loss, logs = channel.loss(output, batch, student)
    expected = by_hand(kind, output.logits, batch, (1, 2))
    assert logs["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(0.3 * expected, rel=1e-5)


@pytest.mark.parametrize("make", [single, pfd])
@pytest.mark.parametrize("kind", KINDS)
def test_reaches_the_serving_heads(make: Any, kind: DistillationLoss) -> None:
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    options = {"warmup_examples": 0} if make is pfd else {}
    channel = make(student, loss=kind, **options)
    assert channel.touches_serving_head
    found = gradients(student, channel, batch)
    assert found["heads.weight"].any() and found["heads.bias"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_compared_on_the_rows_trained_on(kind: DistillationLoss) -> None:
    """With a quarter of the negatives both sides grow by log 4."""
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    student.negative_sampling = 0.25
    teacher = batch.teacher
    assert teacher is not None
    shifted = batch.with_teacher(replace(teacher, logits=teacher.logits + math.log(4)))
    output = student(batch)
    loss, _ = single(student, loss=kind).loss(output, batch, student)
    expected = by_hand(kind, output.logits + math.log(4), shifted, (1, 1))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_agreement_is_that_of_what_both_would_serve() -> None:
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    student.negative_sampling = 0.25
    mask = torch.ones(len(batch), dtype=torch.bool)
    agreed = batch.with_teacher(TeacherSignal(student(batch).logits.detach(), mask, mask.float()))
    assert max(g.abs().max().item() for g in gradients(student, single(student), agreed).values()) < 1e-7


def train(make: Any = None, **options: Any) -> dict[str, Tensor]:
    student = make_student("deepfm", SCHEMA)
    channel = make(student, **options) if make else None
    adam = torch.optim.Adam(student.parameters(), lr=0.01)
    for step in range(5):
        batch = batch_of(step)
        adam.zero_grad()
        output = student(batch)
        loss = label_loss(output.logits, batch.labels, batch.label_mask)
        if channel is not None:
            loss = loss + channel.loss(output, batch, student)[0]
        loss.backward()
        adam.step()
    return student.state_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("make", "options"),
    [(single, {"weight": 0.0}), (pfd, {"weight": 0.0, "warmup_examples": 0}), (pfd, {"warmup_examples": 30})],
)
def test_what_weighs_nothing_changes_no_bit(make: Any, options: Any, kind: DistillationLoss) -> None:
    """Five batches of 6 examples: a warm-up of 30 lasts through all of them."""
    alone, beside = train(), train(make, loss=kind, **options)
    assert [name for name in alone if not torch.equal(alone[name], beside[name])] == []


def test_with_labels_for_a_target_it_is_the_labels_loss_once_more() -> None:
    """Twice the loss of the labels, by hand: the mean over a task's known labels, summed over tasks."""
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    channel, output = single(student, weight=2.0, target="labels"), student(batch)
    assert channel.other_labels and not single(student).other_labels
    expected = 0.0
    for task in range(len(student.tasks)):
        known = batch.label_mask[:, student.task_index[task]]
        z, y = output.logits[known, task].double(), batch.labels[known, student.task_index[task]].double()
        expected += (torch.log1p(z.exp()) - y * z).mean().item()
    assert channel.loss(output, batch, student)[0].item() == pytest.approx(2 * expected, rel=1e-5)


def test_after_the_warm_up_the_student_feels_it() -> None:
    alone, beside = train(), train(pfd, warmup_examples=24)
    assert not torch.equal(alone["heads.bias"], beside["heads.bias"])


def test_warm_up_counts_examples_by_batches() -> None:
    """Batches of 4, 4 and 3: the third begins when 8 have been seen, the fourth when 11 have."""
    student = make_student("dlrm", SCHEMA)
    batches = [batch_of(seed, rows) for seed, rows in enumerate((4, 4, 3, 5))]
    silent = [
        replace(batch.teacher, mask=torch.zeros_like(batch.teacher.mask))
        for batch in batches
        if batch.teacher
    ]
    for warmup, warm in ((0, [1, 1, 1, 1]), (8, [0, 0, 1, 1]), (9, [0, 0, 0, 1]), (17, [0, 0, 0, 0])):
        channel = pfd(student, warmup_examples=warmup)
        # Rows without a signal count too, those of other surfaces do not.
        given = [batches[0].with_teacher(silent[0]), *batches[1:]]
        assert [channel.loss(student(b), b, student)[1]["warm"].item() for b in given] == warm
        channel.loss(student(batches[0]), replace(batches[0], own=False), student)
        assert channel.examples == 16


@pytest.mark.parametrize("make", [single, pfd])
def test_asks_for_rows_of_other_surfaces_where_it_weighs_something(make: Any) -> None:
    student = make_student("dlrm", SCHEMA)
    asked = [make(student, other_surfaces=0.5, weight=weight).other_surfaces for weight in (1.0, 0.0)]
    assert asked == [0.5, 0.0] and make(student).other_surfaces == 0


def test_warm_up_logs_the_loss_that_it_holds_back() -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    loss, logs = pfd(student, warmup_examples=1).loss(student(batch), batch, student)
    assert loss.item() == 0 and logs["loss"].item() > 0.1
    assert set(logs) == {"loss", "clipped", "warm"}


def test_a_channel_attached_anew_counts_anew() -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    channel = pfd(student, warmup_examples=6)
    channel.loss(student(batch), batch, student)
    assert channel.examples == 6
    channel.attach(student)
    assert channel.examples == 0


@pytest.mark.parametrize("make", [SingleConfig, PrivilegedFeaturesConfig])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight: got -1.0, allowed: 0 or more"),
        ({"alpha": 0.0}, "alpha: got 0.0, allowed: more than 0"),
        (
            {"alpha": 2.0, "loss": "mse_logit"},
            "alpha: got 2.0, allowed: 1 with the loss 'mse_logit', which reads",
        ),
        (
            {"loss": "pairwise"},
            "loss: got 'pairwise', allowed: bce, mse_logit, mse_probability. A ranking loss says",
        ),
        ({"loss": "listwise"}, "loss: got 'listwise', allowed: .* put it on an auxiliary head, `ah`"),
        ({"task_weights": {"click": -1.0}}, "task_weights: got {'click': -1.0}, allowed: 0 or more"),
        ({"other_surfaces": 1.5}, "other_surfaces: got 1.5, allowed: from 0, none of their rows, to 1, all"),
    ],
)
def test_settings_out_of_range(make: Any, options: dict[str, Any], message: str) -> None:
    channel = "single" if make is SingleConfig else "pfd"
    with pytest.raises(UserError, match=f"{channel}.{message}"):
        make(**options)


def test_labels_are_no_target_of_privileged_features() -> None:
    with pytest.raises(UserError, match=r"pfd\.target: got 'labels', allowed: teacher"):
        PrivilegedFeaturesConfig(target="labels")


def test_warm_up_below_0_and_unknown_tasks() -> None:
    with pytest.raises(UserError, match="pfd.warmup_examples: got -1, allowed: 0 or more"):
        PrivilegedFeaturesConfig(warmup_examples=-1)
    for make, name in ((single, "single"), (pfd, "pfd")):
        with pytest.raises(UserError, match=f"{name}.task_weights: got 'clik', .*Did you mean 'click'"):
            make(make_student("dlrm", SCHEMA), task_weights={"clik": 1.0})
