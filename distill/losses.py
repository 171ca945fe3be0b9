"""Losses on logits, over the rows that count, and what the distillation losses share (`distill.distillation`).

Shape letters: B examples, k tasks of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distill.batch import Batch
from distill.protocols import Architecture
from kernels.multitask_distillation import multitask_distillation

LOWEST_RATE = 1e-4


def masked_bce(logits: Tensor, targets: Tensor, mask: Tensor, task_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with logits: for each task the mean over its rows, summed over tasks.

    Args:
        logits: float32 [B, k]; [N, B, k] of N models.
        targets: float32 [B, k], labels or probabilities. Their range is not checked: the loss is
            log(1 + exp(z)) - t z whatever t is, and unbounded below for t > 1.
        mask: bool [B, k], the rows that count for a task. A task without any adds exactly 0 and sends no
            gradient.
        task_weights: float32 [k], factor of each task's mean; None for 1.

    Returns:
        A scalar; [N] of N models.
    """
    return multitask_distillation(logits, targets, mask, task_weights=task_weights)


def label_loss(logits: Tensor, labels: Tensor, mask: Tensor, task_weights: Tensor | None = None) -> Tensor:
    """The labels' loss: for each task the mean over its known labels, summed over tasks.

    Args:
        logits: float32 [B, k]; [N, B, k] of N models, which gives [N].
        labels: float32 [B, k], 0 or 1, or unbiased estimates of that, 0 or larger than 1 (`distill.delay`); the loss is
            linear in them, so that its expectation is that of the true labels.
        mask: bool [B, k], False where a label is not known.
        task_weights: float32 [k], as in `masked_bce`; None for 1.
    """
    return masked_bce(logits, labels, mask, task_weights)


def sampled_logits(logits: Tensor, student: Architecture) -> Tensor:
    """What logits of all rows become on the rows that a student trains on: z - log r, r the share of negatives kept.

    Odds are positives over negatives, so they grow by 1 / r. Logits that a student serves, or a teacher's, are of all
    rows; every loss on sampled rows compares them so shifted (Rec-Distill, arXiv 2605.29755: raw logits through the
    student's own sampling correction).

    Args:
        logits: float32 [B, k].
        student: says what it trains on (`Architecture.negative_sampling`).
    """
    shift = student.logit_shift
    return logits - shift if shift else logits


def teacher_logits(batch: Batch, student: Architecture) -> tuple[Tensor, Tensor]:
    """The teacher's logits for the student's tasks, on the rows that the student trains on.

    Args:
        batch: with `teacher`.
        student: gives the tasks and how its rows were sampled.

    Returns:
        float32 [B, k]; mask bool [B, k] of the rows with a signal.
    """
    assert batch.teacher is not None, "the batch carries no teacher signal"
    logits = sampled_logits(batch.teacher.logits[:, student.task_index].detach(), student)
    return logits, batch.teacher.mask.unsqueeze(1).expand_as(logits)


def labels_of(batch: Batch, student: Architecture) -> tuple[Tensor, Tensor]:
    """The labels of the student's tasks that training may learn from.

    Args:
        batch: with labels.
        student: gives the tasks.

    Returns:
        float32 [B, k]; mask bool [B, k] of those that are there.
    """
    return batch.labels[:, student.task_index], batch.label_mask[:, student.task_index]


class _ScaleGradient(torch.autograd.Function):
    generate_vmap_rule = True  # a bank computes the losses of its members at once

    @staticmethod
    def forward(value: Tensor, factor: float) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """Identity forward, gradient times `factor` backward (ExFM's gradient scaling, beta)."""
    return value if factor == 1 else _ScaleGradient.apply(value, factor)


def sampled_rates(rates: Mapping[str, Tensor], shift: float) -> dict[str, Tensor]:
    """Rates of all rows as they are on the rows that a student trains on: p / (p + (1 - p) r).

    Args:
        rates: task to float64 [number of domains].
        shift: log r, the student's `logit_shift`; at 0 the rates stay what they are.
    """
    if not shift:
        return dict(rates)
    return {task: (of_task.logit() - shift).sigmoid() for task, of_task in rates.items()}


def base_rate_logits(rates: Mapping[str, Tensor], tasks: Sequence[str], factor: float = 1.0) -> Tensor:
    """The logit of each task's rate, with which a bias starts.

    Args:
        rates: task to float64 [number of domains], NaN where a domain has no label
            (`Architecture.set_base_rates`). A student of one vertical sees one number; of several, the plain
            mean is taken.
        tasks: the tasks asked for.
        factor: on the rate, such as the alpha of scaled targets.

    Returns:
        float32 [k]: the rate kept within [1e-4, 1 - 1e-4]; NaN for a task without any labelled domain.
    """
    means = torch.stack([rates[task].nanmean() for task in tasks])
    return (factor * means).clamp(LOWEST_RATE, 1 - LOWEST_RATE).logit().float()


@torch.no_grad()
def start_bias(bias: Tensor, logits: Tensor) -> None:
    """Set a bias [k] to the logits of the base rates [k]; where one is NaN the bias stays.

    Args:
        bias: float32 [k], changed in place.
        logits: what `base_rate_logits` gave.
    """
    bias.copy_(torch.where(logits.isnan(), bias, logits))
