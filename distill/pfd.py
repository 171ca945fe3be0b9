"""Privileged Features Distillation (Xu et al., KDD 2020, arXiv 1907.05171): what the teacher saw, the student learns.

The teacher reads features that the student cannot have when it serves, too late or too dear for it; the student, which
learns the same labels without them, is given the teacher's soft labels as well. An experiment whose teacher reads
nothing more than the student is refused (`distill.validate_privileged`): that would be `single`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distill.batch import Batch
from distill.channel_config import PrivilegedFeaturesConfig
from distill.distillation import check_tasks
from distill.protocols import Architecture, Output
from distill.schema import FeatureSchema
from distill.single import Single


class PrivilegedFeatures(Single):
    """lambda * loss(serving logit, teacher): lambda is 0 in the first batches, then w, at once.

    The examples of those batches are counted here, with or without a teacher's signal, in training alone. The count is
    no part of what is served; a channel that is attached anew counts anew.

    Args:
        config: as of `single`, and the length of the warm-up.
        schema: the data set's schema.
    """

    config: PrivilegedFeaturesConfig

    def __init__(self, config: PrivilegedFeaturesConfig, schema: FeatureSchema):
        super().__init__(config, schema)
        self.examples = 0

    def attach(self, student: Architecture) -> None:
        super().attach(student)
        self.examples = 0

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = super().loss(output, batch, student)
        warm = float(self.examples >= self.config.warmup_examples)
        if batch.own:
            self.examples += len(batch)
        return warm * loss, logs | {"warm": torch.tensor(warm)}

    def training_state(self) -> dict[str, Any]:
        """The count."""
        return {"examples": self.examples}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.examples = state["examples"]


def build(config: PrivilegedFeaturesConfig, schema: FeatureSchema, seed: int) -> PrivilegedFeatures:
    """Builder for the registry; UserError when a weight is given to a task that the schema lacks."""
    check_tasks(config.task_weights, schema, "pfd")
    return PrivilegedFeatures(config, schema)
