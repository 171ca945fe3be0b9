"""The forms of distillation: losses between a head's logits and the teacher's, on the rows that have a signal.

| kind            | a row's, a pair's or a list's loss; z_D of the head, z_F of the teacher                            |
|-----------------|----------------------------------------------------------------------------------------------------|
| bce             | BCE(z_D, clip(alpha sigmoid(z_F), 0, 1)) (ExFM, arXiv 2502.17494)                                  |
| mse_logit       | (z_D - z_F)^2                                                                                      |
| mse_probability | (sigmoid(z_D) - clip(alpha sigmoid(z_F), 0, 1))^2                                                  |
| pairwise        | BCE(z_Di - z_Dj, sigmoid(z_Fi - z_Fj)) of the pairs i < j (RankNet, Burges et al., ICML 2005)      |
| listwise        | -sum_i softmax(z_F)_i log softmax(z_D)_i over the batch's rows (ListNet, Cao et al., ICML 2007)    |

All of them for each task by itself, times the task's weight, summed over tasks; no temperature. The gradient is zero
where the head says what the teacher says. `pairwise` and `listwise` do not feel a constant added to either side: they
say nothing of the level and belong on a head that is not served.

A student that trains on sampled rows compares both sides as they are on those rows (`distill.losses.sampled_logits`).

Shape letters: B examples, k tasks of the student, n rows of a batch with a signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from distill.batch import Batch
from distill.channel_config import DistillationLoss
from distill.errors import UserError, nearest
from distill.losses import teacher_logits
from distill.protocols import Architecture
from distill.schema import FeatureSchema
from kernels.multitask_distillation import multitask_distillation

Masked = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Logits [B, k], the teacher's [B, k], mask bool [B, k], task weights [k] or None, to a scalar."""
Scaled = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""The same with alpha, for the kinds that read probabilities."""


def distillation_loss(
    kind: DistillationLoss,
    logits: Tensor,
    batch: Batch,
    student: Architecture,
    alpha: float = 1.0,
    task_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a head against the teacher, before any weight of its channel.

    Args:
        kind: see the module's text.
        logits: float32 [B, k], as the head says them of the rows that it trains on; [N, B, k] of N heads.
        batch: with `teacher`.
        student: gives the tasks and how its rows were sampled.
        alpha: factor on the teacher's probability, for the kinds that read probabilities.
        task_weights: float32 [k], factor of each task's loss; None for 1.

    Returns:
        A scalar, [N] of N heads, exactly 0 and without gradient in a batch without a signal; to log: `loss`, and of
        probabilities `clipped`, the share that alpha took beyond 1.
    """
    targets, mask = teacher_logits(batch, student)
    if kind in _OF_PROBABILITIES:
        loss = _OF_PROBABILITIES[kind](logits, targets, mask, task_weights, alpha)
        return loss, {"loss": loss.detach(), "clipped": clipped_share(targets, mask, alpha)}
    loss = _OF_LOGITS[kind](logits, targets, mask, task_weights)
    return loss, {"loss": loss.detach()}


def clipped_share(teacher: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """The share of scaled probabilities beyond 1, a scalar; 0 without a signal.

    Args:
        teacher: logits, float32 [B, k].
        mask: bool [B, k], the rows with a signal.
        alpha: factor on the probability.
    """
    if alpha <= 1:
        return teacher.new_zeros(())
    return ((alpha * teacher.sigmoid() > 1) & mask).sum() / mask.sum().clamp_min(1)


def soft_bce(
    logits: Tensor, teacher: Tensor, mask: Tensor, task_weights: Tensor | None = None, alpha: float = 1.0
) -> Tensor:
    """Cross-entropy with the teacher's probabilities: for each task the mean over its rows, summed over tasks.

    Args:
        logits, teacher: float32 [B, k], of the head and of the teacher; only the head's get a gradient.
        mask: bool [B, k], the rows that count for a task.
        task_weights: float32 [k]; None for 1.
        alpha: factor on the teacher's probability, which is then clipped to 1 (ExFM, arXiv 2502.17494: label scaling).
    """
    return multitask_distillation(
        logits,
        teacher_logits=teacher,
        teacher_mask=mask,
        task_weights=task_weights,
        label_weight=0.0,
        soft_weight=1.0,
        label_scaling=alpha,
    )


def masked_mse(values: Tensor, targets: Tensor, mask: Tensor, task_weights: Tensor | None = None) -> Tensor:
    """Squared error: for each task the mean over its rows, summed over tasks.

    Args:
        values, targets: float32 [B, k].
        mask: bool [B, k], the rows that count for a task.
        task_weights: float32 [k]; None for 1.
    """
    return multitask_distillation(
        values,
        teacher_logits=targets,
        teacher_mask=mask,
        task_weights=task_weights,
        label_weight=0.0,
        logit_weight=1.0,
    )


def _mse_probability(
    logits: Tensor, teacher: Tensor, mask: Tensor, task_weights: Tensor | None, alpha: float
) -> Tensor:
    return masked_mse(logits.sigmoid(), (alpha * teacher.sigmoid()).clamp_max(1), mask, task_weights)


def pairwise(logits: Tensor, targets: Tensor, mask: Tensor, task_weights: Tensor | None = None) -> Tensor:
    """RankNet with soft targets: for each task the mean over the n (n - 1) / 2 pairs of its rows, summed over tasks.

    Some five matrices [n, n] of float32 live until the backward pass: 5 MB a task at n = 512, 340 MB at n = 4,096.

    Args:
        logits, targets: float32 [B, k], of the head and of the teacher.
        mask: bool [B, k], the rows that count for a task; fewer than two make no pair and add exactly 0.
        task_weights: float32 [k]; None for 1.
    """
    return _by_task(_pairs, logits, targets, mask, task_weights)


def listwise(logits: Tensor, targets: Tensor, mask: Tensor, task_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy between the softmaxes over each task's rows of the batch, summed over tasks.

    A row's gradient is softmax(z_D) - softmax(z_F), about 1 / n of a probability's size, as it is where rows are
    averaged: weights mean about the same as for the other kinds.

    Args:
        logits, targets: float32 [B, k], of the head and of the teacher.
        mask: bool [B, k], the rows that count for a task; without any it adds exactly 0.
        task_weights: float32 [k]; None for 1.
    """
    return _by_task(_list, logits, targets, mask, task_weights)


def _by_task(
    loss: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    task_weights: Tensor | None,
) -> Tensor:
    """The loss of each task's rows, own [..., n] and the teacher's [n], times the task's weight, summed."""
    columns = zip(logits.unbind(-1), targets.unbind(1), mask.unbind(1), strict=True)
    losses = torch.stack([loss(own[..., rows], of_teacher[rows]) for own, of_teacher, rows in columns], -1)
    return losses.sum(-1) if task_weights is None else (losses * task_weights).sum(-1)


def _pairs(own: Tensor, of_teacher: Tensor) -> Tensor:
    rows = len(of_teacher)
    gaps = own.unsqueeze(-1) - own.unsqueeze(-2)
    targets = (of_teacher.unsqueeze(1) - of_teacher).sigmoid()
    pairs = torch.ones_like(targets).triu_(diagonal=1) / max(rows * (rows - 1) / 2, 1)
    losses = functional.binary_cross_entropy_with_logits(
        gaps, targets.expand_as(gaps), pairs, reduction="none"
    )
    return losses.sum((-2, -1))


def _list(own: Tensor, of_teacher: Tensor) -> Tensor:
    return -(of_teacher.softmax(0) * own.log_softmax(-1)).sum(-1)


_OF_PROBABILITIES: dict[str, Scaled] = {"bce": soft_bce, "mse_probability": _mse_probability}
_OF_LOGITS: dict[str, Masked] = {"mse_logit": masked_mse, "pairwise": pairwise, "listwise": listwise}


def weights_of(task_weights: Mapping[str, float], tasks: Sequence[str]) -> Tensor:
    """Factor of each task's loss, float32 [k]: 1 for tasks that are not named."""
    return torch.tensor([task_weights.get(task, 1.0) for task in tasks])


def check_tasks(task_weights: Mapping[str, float], schema: FeatureSchema, channel: str) -> None:
    """Refuse a weight of a task that the schema lacks.

    Raises:
        UserError: names the task and the nearest one.
    """
    tasks = schema.task_names
    for task in task_weights:
        if task not in tasks:
            raise UserError(
                f"{channel}.task_weights: got '{task}', allowed: {', '.join(tasks)}. {nearest(task, tasks)}".rstrip()
            )
