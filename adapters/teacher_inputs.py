"""What a learnt target is made from: the teachers' logits, and the circumstances of an example that a config asks for.

Shape letters: B examples, K tasks of the schema, S surfaces, n teachers, W width of it all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adapters.adapter_config import LearntTargetConfig
from distill.batch import Batch, TeacherSignal
from distill.schema import FeatureSchema

DAY_MS = 86_400_000


@dataclass(frozen=True)
class TeacherInputs:
    """Columns side by side, all of the size of a logit (ours; ExFM, arXiv 2502.17494, reads the logit alone).

    Attributes:
        config: says which.
        schema: of the data set.
        teachers: n.
    """

    config: LearntTargetConfig
    schema: FeatureSchema
    teachers: int = 1

    @property
    def width(self) -> int:
        """W."""
        each = len(self.schema.tasks) + self.config.age
        return self.teachers * each + self.config.surface * len(self.schema.domains) + 2 * self.config.hour

    def __call__(self, batch: Batch, signals: Sequence[TeacherSignal]) -> Tensor:
        """The columns of a batch.

        Args:
            batch: the examples.
            signals: of each teacher; logits of all tasks are read, also those that the student does not predict.

        Returns:
            float32 [B, W].
        """
        columns = [signal.logits for signal in signals]
        if self.config.age:
            # Days, drawn together: under a frozen schedule every day brings an age that was never seen.
            columns += [signal.age.log1p().unsqueeze(1) for signal in signals]
        if self.config.surface:
            columns.append(functional.one_hot(batch.domain, len(self.schema.domains)).float())
        if self.config.hour:
            angle = (batch.timestamp % DAY_MS).double() * (2 * math.pi / DAY_MS)
            columns.append(torch.stack([angle.sin(), angle.cos()], dim=1).float())
        return torch.cat(columns, dim=1)
