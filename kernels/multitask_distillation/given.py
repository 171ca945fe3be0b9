"""What both paths of the multi-task distillation loss are given.

Shape letters: N models, B examples, k tasks, L 1 where models share and N where they do not.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Given(NamedTuple):
    """The operator's arguments, in their order.

    Attributes:
        logits: [N, B, k].
        labels, teacher_logits: [L, B, k]; None without their terms.
        label_weights, teacher_weights: [L, B, k], c of each row.
        adapter_scale, adapter_shift: [L, k]; None for 1 and 0.
        soft_weight, logit_weight: factors on c in the teacher's terms; 0 leaves one out.
        label_scaling: factor on the teacher's probability.
    """

    logits: Tensor
    labels: Tensor | None
    label_weights: Tensor | None
    teacher_logits: Tensor | None
    teacher_weights: Tensor | None
    adapter_scale: Tensor | None
    adapter_shift: Tensor | None
    soft_weight: float
    logit_weight: float
    label_scaling: float


SCHEMA = (
    "Tensor logits, Tensor? labels, Tensor? label_weights, Tensor? teacher_logits, Tensor? teacher_weights, "
    "Tensor? adapter_scale, Tensor? adapter_shift, float soft_weight, float logit_weight, float label_scaling"
)
"""The same as torch's registry writes it."""
