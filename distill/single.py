"""Distillation on the serving head itself: the control that an auxiliary head must beat."""

from __future__ import annotations

from torch import Tensor

from distill.batch import Batch
from distill.channel_config import SingleConfig
from distill.distillation import check_tasks, distillation_loss, weights_of
from distill.levels import level_gaps
from distill.losses import labels_of, masked_bce, sampled_logits
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema


class Single(Channel):
    """w * loss(serving logit, teacher) of one of the kinds of `distill.distillation` that speak of the level.

    Labels and teacher pull at the same logit, so the served probability leans towards the teacher's, stale or not
    (ExFM, arXiv 2502.17494, calls this single-head distillation). With `other_surfaces` (ours) the serving head also
    learns what the teacher says of rows that are not the student's, and where these are many, mostly that. `level:
    labels` (ours) leaves the level to the labels of the student's own rows.

    Args:
        config: weights, kind of loss, label scaling, whose level.
        schema: the data set's schema.
    """

    touches_serving_head = True
    in_banks = True
    task_weights: Tensor

    def __init__(self, config: SingleConfig, schema: FeatureSchema):
        super().__init__()
        self.config, self.schema = config, schema
        # A loss that weighs nothing must change nothing, not even the number of steps.
        self.other_surfaces = config.other_surfaces if config.weight else 0.0
        self.other_labels = config.target == "labels"

    def attach(self, student: Architecture) -> None:
        weights = weights_of(self.config.task_weights, student.tasks)
        self.register_buffer("task_weights", weights, persistent=False)
        self.gaps = level_gaps(self.config.level, len(self.schema.domains), len(student.tasks))

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        config, logits = self.config, sampled_logits(output.logits, student)
        if self.gaps is not None:
            logits = self.gaps(logits, batch)
        if config.target == "labels":
            loss = masked_bce(logits, *labels_of(batch, student), self.task_weights)
            return config.weight * loss, {"loss": loss.detach()}
        loss, logs = distillation_loss(config.loss, logits, batch, student, config.alpha, self.task_weights)
        return config.weight * loss, logs


def build(config: SingleConfig, schema: FeatureSchema, seed: int) -> Single:
    """Builder for the registry; UserError when a weight is given to a task that the schema lacks."""
    check_tasks(config.task_weights, schema, "single")
    return Single(config, schema)
