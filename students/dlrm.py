"""DLRM (Naumov et al., arXiv 1906.00091): dot products of all pairs of embeddings under an MLP.

Shape letters: B examples, F fields, D embedding dim, N dense features, P pairs.
"""

from __future__ import annotations

from typing import Any

import torch

from distill.batch import Batch
from distill.protocols import Output
from distill.seeding import seeded
from students.base import Student
from students.blocks import MLP, DotInteraction
from students.config import DLRMConfig


class DLRM(Student):
    """The bottom MLP makes one more field of the dense features; pairs of fields and that field enter the top
    MLP.

    Without dense features there is no bottom MLP, and the pairs alone enter.

    Args:
        config: sizes.
        common: the other arguments of `Student`, by name.
    """

    def __init__(self, config: DLRMConfig, **common: Any):
        super().__init__(
            dim=config.dim,
            history_length=config.history_length,
            history_pooling=config.history_pooling,
            **common,
        )
        n_dense = len(self.dense_features)
        with seeded(self.seed, "student"):
            if n_dense:
                self.bottom = MLP(n_dense, [*config.bottom, config.dim])
            self.pairs = DotInteraction(self.n_fields + (n_dense > 0))
            self.top = MLP(self.pairs.width + (config.dim if n_dense else 0), config.mlp)
            self.add_heads(config.mlp[-1])

    def forward(self, batch: Batch) -> Output:
        fields = self.fields(batch)
        if not self.dense_features:
            return self.output(fields, self.top(self.pairs(fields)))
        dense = self.bottom(batch.dense)
        pairs = self.pairs(torch.cat([fields, dense.unsqueeze(1)], dim=1))
        return self.output(fields, self.top(torch.cat([dense, pairs], dim=1)))


def build(config: DLRMConfig, **common: Any) -> DLRM:
    """Builder for the registry; `common` are the arguments of `Student`."""
    return DLRM(config, **common)
