"""The definition of the multi-task distillation loss in plain PyTorch, of one model. Every fast path equals this.

Shape letters: B examples, k tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def multitask_distillation(
    logits: Tensor,
    labels: Tensor | None = None,
    label_mask: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    *,
    task_weights: Tensor | None = None,
    label_weight: float = 1.0,
    soft_weight: float = 0.0,
    logit_weight: float = 0.0,
    label_scaling: float = 1.0,
    adapter_scale: Tensor | None = None,
    adapter_shift: Tensor | None = None,
) -> Tensor:
    """Arguments and result as in `kernels.multitask_distillation.multitask_distillation`, of logits [B, k].

    The loss of several models is that of each of them.
    """
    z, terms = at_least_float32(logits), []
    if label_weight:
        weights = _weights(label_mask, task_weights, label_weight, z)
        terms.append(_cross_entropy(z, _values(labels, z), weights))
    if soft_weight:
        weights = _weights(teacher_mask, task_weights, soft_weight, z)
        adapted = _adapted(z, adapter_scale, adapter_shift)
        terms.append(_cross_entropy(adapted, soft_labels(_values(teacher_logits, z), label_scaling), weights))
    if logit_weight:
        weights = _weights(teacher_mask, task_weights, logit_weight, z)
        terms.append((weights * (z - _values(teacher_logits, z)).square()).sum())
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def _values(signal: Tensor | None, z: Tensor) -> Tensor:
    """Labels or teacher's logits, which get no gradient."""
    assert signal is not None
    signal = signal.detach() if signal.requires_grad else signal
    return signal if signal.dtype == z.dtype else signal.to(z.dtype)


def _adapted(z: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    return z if scale is None or shift is None else scale * z + shift


def _weights(mask: Tensor | None, task_weights: Tensor | None, weight: float, z: Tensor) -> Tensor:
    assert mask is not None
    return row_weights(mask, task_weights, weight, z.dtype)


def row_weights(mask: Tensor, task_weights: Tensor | None, weight: float, dtype: torch.dtype) -> Tensor:
    """c, which makes the mean over each task's rows of a sum over all: [..., B, k].

    Args:
        mask: bool [..., B, k].
        task_weights: [k]; None for 1.
        weight: factor on all.
        dtype: of the loss.
    """
    count = mask.sum(-2, keepdim=True).clamp_min(1)
    # A quotient of integers is float32.
    weights = mask / (count.double() if dtype == torch.float64 else count)
    if task_weights is not None:
        weights = weights * task_weights
    return weights if weight == 1 else weight * weights


def soft_labels(teacher_logits: Tensor, label_scaling: float) -> Tensor:
    """min(label_scaling * sigmoid(t), 1)."""
    probabilities = teacher_logits.sigmoid()
    return probabilities if label_scaling == 1 else (label_scaling * probabilities).clamp_max(1)


def at_least_float32(x: Tensor) -> Tensor:
    """A sum over a batch has no room in narrower numbers."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum of c (log(1 + exp(z)) - y z)."""
    return functional.binary_cross_entropy_with_logits(logits, targets, weight=weights, reduction="sum")
