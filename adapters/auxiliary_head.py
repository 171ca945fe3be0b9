"""The auxiliary head: soft labels reach the student through a head of their own (ExFM, arXiv 2502.17494).

The serving head learns from labels only and stays calibrated; the distill head, on the same trunk, takes the
teacher's error upon itself. It exists in training only.

Shape letters: B examples, k tasks of the student.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from adapters.config import AuxiliaryHeadConfig
from adapters.distill_head import DistillHead, check_tasks, tap_width, weights_of
from distill.batch import Batch
from distill.losses import masked_bce, soft_labels
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded


class AuxiliaryHead(Channel):
    """w * BCE(z_D, clip(alpha * p_teacher, 0, 1)) with z_D = MLP(tap); gradient into the student times beta.

    For each task the mean over the rows with a teacher signal, times the task's weight, summed over tasks.
    The head's parameters belong to the student's dense optimiser; hidden layers are shared by the tasks.

    Args:
        config: weights, scalings, the head's form.
        seed: of the head's initial values.
    """

    touches_serving_head = False
    task_weights: Tensor

    def __init__(self, config: AuxiliaryHeadConfig, seed: int):
        super().__init__()
        self.config = config
        self.seed = seed

    def attach(self, student: Architecture) -> None:
        """Build the head on the student's tap.

        Raises:
            UserError: the student has no such tap.
        """
        config = self.config
        width = tap_width(student, config.tap, "ah")
        weights = weights_of(config.task_weights, student.tasks)
        self.register_buffer("task_weights", weights, persistent=False)
        with seeded(self.seed, "channel.ah"):
            self.head = DistillHead(width, config.hidden, student.tasks, config.beta)

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """The head starts where its targets lie: at alpha times the rate."""
        self.head.set_base_rates(rates, self.config.alpha)

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        targets, mask, clipped = soft_labels(batch, student, self.config.alpha)
        logits = self.head(output.taps[self.config.tap])
        loss = masked_bce(logits, targets, mask, self.task_weights)
        return self.config.weight * loss, {"loss": loss.detach(), "clipped": clipped}


def build(config: AuxiliaryHeadConfig, schema: FeatureSchema, seed: int) -> AuxiliaryHead:
    """Builder for the registry; UserError when a weight is given to a task that the schema lacks."""
    check_tasks(config.task_weights, schema, "ah")
    return AuxiliaryHead(config, seed)
