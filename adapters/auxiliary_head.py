"""The auxiliary head: soft labels reach the student through a head of their own (ExFM, arXiv 2502.17494).

The serving head learns from labels only and stays calibrated; the distill head, on the same trunk, takes the
teacher's error upon itself. It exists in training only.

Shape letters: B examples, k tasks of the student.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adapters.config import AuxiliaryHeadConfig
from distill.batch import Batch
from distill.errors import UserError, nearest
from distill.losses import base_rate_logits, masked_bce, scale_gradient, soft_labels, start_bias
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
        self.tasks: tuple[str, ...] = ()

    def attach(self, student: Architecture) -> None:
        """Build the head on the student's tap.

        Raises:
            UserError: the student has no such tap.
        """
        config = self.config
        if config.tap not in student.tap_widths:
            taps = student.tap_widths
            raise UserError(
                f"ah.tap: got '{config.tap}', allowed: {', '.join(taps)}. {nearest(config.tap, taps)}"
            )
        self.tasks = student.tasks
        weights = torch.tensor([config.task_weights.get(task, 1.0) for task in self.tasks])
        self.register_buffer("task_weights", weights, persistent=False)
        with seeded(self.seed, "channel.ah"):
            self.hidden = _hidden_layers(student.tap_widths[config.tap], config.hidden)
            width = config.hidden[-1] if config.hidden else student.tap_widths[config.tap]
            self.head = nn.Linear(width, len(self.tasks))

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """The head starts where its targets lie: at alpha times the rate."""
        start_bias(self.head.bias, base_rate_logits(rates, self.tasks, self.config.alpha))

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        targets, mask, clipped = soft_labels(batch, student, self.config.alpha)
        entry = scale_gradient(output.taps[self.config.tap], self.config.beta)
        loss = masked_bce(self.head(self.hidden(entry)), targets, mask, self.task_weights)
        return self.config.weight * loss, {"loss": loss.detach(), "clipped": clipped}


def build(config: AuxiliaryHeadConfig, schema: FeatureSchema, seed: int) -> AuxiliaryHead:
    """Builder for the registry; UserError when a weight is given to a task that the schema lacks."""
    for task in config.task_weights:
        if task not in schema.tasks:
            tasks = schema.task_names
            raise UserError(
                f"ah.task_weights: got '{task}', allowed: {', '.join(tasks)}. {nearest(task, tasks)}"
            )
    return AuxiliaryHead(config, seed)


def _hidden_layers(width: int, hidden: list[int]) -> nn.Sequential:
    layers = nn.Sequential()
    for before, after in zip([width, *hidden], hidden, strict=False):
        layers.extend([nn.Linear(before, after), nn.ReLU()])
    return layers
