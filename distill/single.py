"""Distillation on the serving head itself: the control that an auxiliary head must beat."""

from __future__ import annotations

from torch import Tensor

from distill.batch import Batch
from distill.channel_config import SingleConfig
from distill.losses import masked_bce, soft_labels
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema


class Single(Channel):
    """w * BCE(serving logit, clip(alpha * p_teacher, 0, 1)), averaged over the rows with a teacher signal.

    Tasks are summed. Labels and teacher pull at the same logit, so the served probability leans towards the
    teacher's, stale or not (ExFM, arXiv 2502.17494, calls this single-head distillation).

    Args:
        config: weight and label scaling.
    """

    touches_serving_head = True

    def __init__(self, config: SingleConfig):
        super().__init__()
        self.config = config

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        targets, mask, clipped = soft_labels(batch, student, self.config.alpha)
        loss = masked_bce(output.logits, targets, mask)
        return self.config.weight * loss, {"loss": loss.detach(), "clipped": clipped}


def build(config: SingleConfig, schema: FeatureSchema, seed: int) -> Single:
    """Builder for the registry."""
    return Single(config)
