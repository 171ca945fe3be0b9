"""DeepFM (Guo et al., arXiv 1703.04247): a factorization machine and an MLP over the same embeddings.

Shape letters: B examples, F fields, D embedding dim, N dense features, k tasks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distill.batch import Batch
from distill.protocols import Output
from distill.seeding import seeded
from students.base import Student
from students.blocks import MLP, SecondOrder
from students.config import DeepFMConfig


class DeepFM(Student):
    """Logit = first order + second order + MLP; the serving heads weigh the three, by 1 at the start.

    The first-order weight of an id is w . e: its embedding times a vector of its field and task (FwFM, Pan et
    al., arXiv 1806.03514, linear terms FeLV), not a free number. A free number costs a second look-up, or
    wider rows whose AdaGrad moment it shares and dominates. Dense features enter first order and MLP.

    Args:
        config: sizes.
        common: the other arguments of `Student`, by name.
    """

    def __init__(self, config: DeepFMConfig, **common: Any):
        super().__init__(
            dim=config.dim,
            history_length=config.history_length,
            history_pooling=config.history_pooling,
            **common,
        )
        n_tasks = len(self.tasks)
        with seeded(self.seed, "student"):
            self.first_order = nn.Linear(self.input_width, n_tasks, bias=False)
            self.deep = MLP(self.input_width, config.mlp)
            self.add_heads(config.mlp[-1] + n_tasks + 1)
        with torch.no_grad():
            # As in the paper's sum; with several tasks each has a first order of its own.
            self.heads.weight[:, config.mlp[-1] : -1] = torch.eye(n_tasks)
            self.heads.weight[:, -1] = 1

    def forward(self, batch: Batch) -> Output:
        fields = self.fields(batch)
        x = self.flat_input(fields, batch)
        parts = [self.deep(x), self.first_order(x), SecondOrder.apply(fields)]
        return self.output(fields, torch.cat(parts, dim=1))


def build(config: DeepFMConfig, **common: Any) -> DeepFM:
    """Builder for the registry; `common` are the arguments of `Student`."""
    return DeepFM(config, **common)
