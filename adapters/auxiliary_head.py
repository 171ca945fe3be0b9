"""The auxiliary head: soft labels reach the student through a head of their own (ExFM, arXiv 2502.17494).

The serving head learns from labels only and stays calibrated; the distill head, on the same trunk, takes the
teacher's error upon itself. It exists in training only.

On the tap `embedding` and with hidden layers it is a decoupled tower (Rec-Distill, arXiv 2605.29755, where that is
worth +.44 against +.36 in one tower with the serving head): serving tower and distillation then share the tables alone.
As a channel set of its own:

    channels:
      ah: {ah: {}}
      ah_tower: {ah: {tap: embedding, hidden: [128, 64]}}

With `other_surfaces` the head also learns what the teacher says of rows of other surfaces (`distill.other_surfaces`),
which is how a surface of few rows comes to a trunk that has seen many:

      ah_surfaces: {ah: {other_surfaces: 1.0}}

What that tap holds: the rows of the features, and where there are any the pooled history and the fields that channels
give. DIN has no history there (its interest is made by its attention), GEM nothing but rows; dense features are in none
of them.

Shape letters: B examples, k tasks of the student.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from adapters.config import AuxiliaryHeadConfig
from adapters.distill_head import DistillHead, tap_width
from distill.batch import Batch
from distill.distillation import check_tasks, distillation_loss, weights_of
from distill.losses import labels_of, masked_bce, sampled_rates
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded


class AuxiliaryHead(Channel):
    """w * loss(z_D, teacher) with z_D = MLP(tap); gradient into the student times beta.

    The loss is one of `distill.distillation`, soft cross-entropy unless asked otherwise. Rankings are at home here
    alone: they say nothing of the level, and the labels keep the serving head calibrated beside them. The head's
    parameters belong to the student's dense optimiser; hidden layers are shared by the tasks.

    Args:
        config: weights, kind of loss, scalings, the head's form.
        seed: of the head's initial values.
    """

    touches_serving_head = False
    in_banks = True
    task_weights: Tensor

    def __init__(self, config: AuxiliaryHeadConfig, seed: int):
        super().__init__()
        self.config = config
        self.seed = seed
        # A head that weighs nothing must change nothing, not even the number of steps.
        self.other_surfaces = config.other_surfaces if config.weight else 0.0
        self.other_labels = config.target == "labels"

    def attach(self, student: Architecture) -> None:
        """Build the head on the student's tap.

        Raises:
            UserError: the student has no such tap.
        """
        config = self.config
        width = tap_width(student, config.tap, "ah")
        weights = weights_of(config.task_weights, student.tasks)
        self.shift = student.logit_shift
        self.register_buffer("task_weights", weights, persistent=False)
        with seeded(self.seed, "channel.ah"):
            self.head = DistillHead(width, config.hidden, student.tasks, config.beta)

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """The head starts where its targets lie: at alpha times the rate of the rows trained on."""
        self.head.set_base_rates(sampled_rates(rates, self.shift), self.config.alpha)

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        config, logits = self.config, self.head(output.taps[self.config.tap])
        if config.target == "labels":
            loss = masked_bce(logits, *labels_of(batch, student), self.task_weights)
            return config.weight * loss, {"loss": loss.detach()}
        loss, logs = distillation_loss(config.loss, logits, batch, student, config.alpha, self.task_weights)
        return config.weight * loss, logs


def build(config: AuxiliaryHeadConfig, schema: FeatureSchema, seed: int) -> AuxiliaryHead:
    """Builder for the registry; UserError when a weight is given to a task that the schema lacks."""
    check_tasks(config.task_weights, schema, "ah")
    return AuxiliaryHead(config, seed)
