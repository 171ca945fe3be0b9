"""Every form of distillation against sums written out in float64, and what its gradient must be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.batch import Batch, TeacherSignal
from distill.channel_config import DistillationLoss
from distill.distillation import check_tasks, distillation_loss, weights_of
from distill.errors import UserError
from experiments.benchmarks.synthetic import make_batch, make_schema
from students.base import Student
from tests.students.models import make_student

SCHEMA = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"))
ROWS = 7
KINDS: tuple[DistillationLoss, ...] = ("bce", "mse_logit", "mse_probability", "pairwise", "listwise")
RANKING: tuple[DistillationLoss, ...] = ("pairwise", "listwise")
Array = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(scope="module")
def student() -> Student:
    return make_student("dlrm", SCHEMA)


def case(seed: int = 0, signal: tuple[int, ...] = (0, 1, 3, 4, 6)) -> tuple[Tensor, Batch]:
    """A head's logits [ROWS, 2] and a batch whose teacher knows some of the rows."""
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = 2 * torch.randn(2, ROWS, 2, generator=generator)
    mask = torch.zeros(ROWS, dtype=torch.bool)
    mask[list(signal)] = True
    batch = make_batch(SCHEMA, [0] * ROWS, seed, teacher=False)
    return logits, batch.with_teacher(TeacherSignal(teacher, mask, mask.float()))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def bce(logit: Array, target: Array) -> Array:
    p = sigmoid(logit)
    return -target * np.log(p) - (1 - target) * np.log(1 - p)


def one_task(kind: str, z: Array, t: Array, alpha: float) -> float:
    """The loss of one task's rows with a signal, z of the head and t of the teacher."""
    target = np.minimum(alpha * sigmoid(t), 1)
    if kind == "bce":
        return float(bce(z, target).mean())
    if kind == "mse_logit":
        return float(((z - t) ** 2).mean())
    if kind == "mse_probability":
        return float(((sigmoid(z) - target) ** 2).mean())
    if kind == "pairwise":
        pairs = [(i, j) for i in range(len(z)) for j in range(i + 1, len(z))]
        losses = [float(bce(z[i] - z[j], sigmoid(t[i] - t[j]))) for i, j in pairs]
        return sum(losses) / len(losses)
    own, of_teacher = np.exp(z) / np.exp(z).sum(), np.exp(t) / np.exp(t).sum()
    return float(-(of_teacher * np.log(own)).sum())


def expected(kind: str, logits: Tensor, batch: Batch, alpha: float = 1.0, weights: Any = (1, 1)) -> float:
    assert batch.teacher is not None
    rows = batch.teacher.mask.numpy()
    z, t = logits.double().numpy()[rows], batch.teacher.logits.double().numpy()[rows]
    return sum(weights[k] * one_task(kind, z[:, k], t[:, k], alpha) for k in range(2))


def gradient(
    kind: DistillationLoss, logits: Tensor, batch: Batch, student: Student, **options: Any
) -> Tensor:
    own = logits.clone().requires_grad_()
    distillation_loss(kind, own, batch, student, **options)[0].backward()
    assert own.grad is not None
    return own.grad


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(student: Student, kind: DistillationLoss, seed: int) -> None:
    logits, batch = case(seed)
    weights = weights_of({"conversion": 0.25}, student.tasks)
    loss, logs = distillation_loss(kind, logits, batch, student, task_weights=weights)
    assert loss.item() == pytest.approx(expected(kind, logits, batch, weights=(1, 0.25)), rel=1e-5)
    assert torch.equal(logs["loss"], loss)


@pytest.mark.parametrize("alpha", [0.5, 3.0])
@pytest.mark.parametrize("kind", ["bce", "mse_probability"])
def test_alpha_scales_probabilities(student: Student, kind: DistillationLoss, alpha: float) -> None:
    logits, batch = case()
    loss, logs = distillation_loss(kind, logits, batch, student, alpha=alpha)
    assert loss.item() == pytest.approx(expected(kind, logits, batch, alpha), rel=1e-5)
    assert batch.teacher is not None
    beyond = alpha * sigmoid(batch.teacher.logits.double().numpy()) > 1
    assert logs["clipped"].item() == pytest.approx(beyond[batch.teacher.mask.numpy()].mean())


@pytest.mark.parametrize("kind", ["mse_logit", "pairwise", "listwise"])
def test_nothing_is_clipped_among_logits(student: Student, kind: DistillationLoss) -> None:
    assert set(distillation_loss(kind, *case(), student)[1]) == {"loss"}


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_where_the_head_says_what_the_teacher_says(
    student: Student, kind: DistillationLoss
) -> None:
    _, batch = case()
    assert batch.teacher is not None
    assert gradient(kind, batch.teacher.logits, batch, student).abs().max() < 1e-7
    assert gradient(kind, batch.teacher.logits + torch.randn(ROWS, 2), batch, student).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_by_differences(student: Student, kind: DistillationLoss) -> None:
    logits, batch = case()
    found, step = gradient(kind, logits, batch, student), 1e-5
    for row, task in [(0, 0), (4, 1)]:
        sides = [logits.double().clone() for _ in range(2)]
        sides[0][row, task] += step
        sides[1][row, task] -= step
        high, low = (expected(kind, side, batch) for side in sides)
        assert found[row, task].item() == pytest.approx((high - low) / (2 * step), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_into_the_teacher(student: Student, kind: DistillationLoss) -> None:
    logits, batch = case()
    assert batch.teacher is not None
    teacher = replace(batch.teacher, logits=batch.teacher.logits.clone().requires_grad_())
    loss, _ = distillation_loss(kind, logits.requires_grad_(), batch.with_teacher(teacher), student)
    assert torch.autograd.grad(loss, teacher.logits, allow_unused=True)[0] is None


@pytest.mark.parametrize("side", ["head", "teacher"])
@pytest.mark.parametrize("kind", RANKING)
def test_ranking_does_not_feel_a_constant(student: Student, kind: DistillationLoss, side: str) -> None:
    logits, batch = case()
    loss, _ = distillation_loss(kind, logits, batch, student)
    constant = torch.tensor([3.0, -1.5])
    if side == "head":
        logits = logits + constant
    else:
        assert batch.teacher is not None
        batch = batch.with_teacher(replace(batch.teacher, logits=batch.teacher.logits + constant))
    moved, _ = distillation_loss(kind, logits, batch, student)
    assert moved.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["bce", "mse_logit", "mse_probability"])
def test_the_other_kinds_feel_it(student: Student, kind: DistillationLoss) -> None:
    logits, batch = case()
    one, other = (distillation_loss(kind, z, batch, student)[0].item() for z in (logits, logits + 3))
    assert abs(one - other) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_signal_do_not_matter(student: Student, kind: DistillationLoss) -> None:
    logits, batch = case()
    assert batch.teacher is not None
    silent = ~batch.teacher.mask[:, None]
    loss, _ = distillation_loss(kind, logits, batch, student)
    assert not gradient(kind, logits, batch, student)[silent[:, 0]].any()
    moved = replace(batch.teacher, logits=torch.where(silent, 50.0, batch.teacher.logits))
    again, _ = distillation_loss(kind, torch.where(silent, -50.0, logits), batch.with_teacher(moved), student)
    assert torch.equal(loss, again)


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_signal_there_is_exactly_nothing(student: Student, kind: DistillationLoss) -> None:
    logits, batch = case(signal=())
    loss, _ = distillation_loss(kind, logits, batch, student)
    assert loss.item() == 0 and not gradient(kind, logits, batch, student).any()


def test_one_row_makes_no_pair(student: Student) -> None:
    logits, batch = case(signal=(2,))
    assert distillation_loss("pairwise", logits, batch, student)[0].item() == 0
    assert not gradient("pairwise", logits, batch, student).any()


@pytest.mark.parametrize("kind", RANKING)
def test_rankings_of_extreme_logits_are_finite(student: Student, kind: DistillationLoss) -> None:
    logits, batch = case()
    assert batch.teacher is not None
    batch = batch.with_teacher(replace(batch.teacher, logits=80 * batch.teacher.logits))
    found = gradient(kind, -80 * logits, batch, student)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_rows_shift_the_teacher(kind: DistillationLoss) -> None:
    """With a quarter of the negatives, the head agrees with the teacher at z_F + log 4."""
    sampled = make_student("dlrm", SCHEMA)
    sampled.negative_sampling = 0.25
    _, batch = case()
    assert batch.teacher is not None
    agreed = batch.teacher.logits + np.log(4)
    assert gradient(kind, agreed, batch, sampled).abs().max() < 1e-6
    if kind not in RANKING:
        assert gradient(kind, batch.teacher.logits, batch, sampled).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["bce", "mse_probability"])
def test_alpha_scales_what_the_sampling_has_shifted(kind: DistillationLoss) -> None:
    sampled = make_student("dlrm", SCHEMA)
    sampled.negative_sampling = 0.25
    logits, batch = case()
    assert batch.teacher is not None
    shifted = batch.with_teacher(replace(batch.teacher, logits=batch.teacher.logits + np.log(4)))
    loss, _ = distillation_loss(kind, logits, batch, sampled, alpha=0.5)
    assert loss.item() == pytest.approx(expected(kind, logits, shifted, alpha=0.5), rel=1e-5)


def test_weights_of_tasks() -> None:
    assert weights_of({"b": 0.5}, ("a", "b")).tolist() == [1, 0.5]
    check_tasks({"click": 2.0}, SCHEMA, "single")
    message = "pfd.task_weights: got 'clik', allowed: click, conversion. Did you mean 'click'"
    with pytest.raises(UserError, match=message):
        check_tasks({"clik": 1.0}, SCHEMA, "pfd")
