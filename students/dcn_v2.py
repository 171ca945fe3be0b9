"""DCN-v2 (Wang et al., arXiv 2008.13535): cross layers beside or under an MLP.

Shape letters: B examples, F fields, D embedding dim, N dense features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distill.batch import Batch
from distill.protocols import Output
from distill.seeding import seeded
from students.base import Student
from students.blocks import MLP, CrossLayer
from students.config import DCNv2Config


class DCNv2(Student):
    """Cross layers over x0 = [embeddings, dense features]; parallel: [cross, MLP(x0)], stacked: MLP(cross).

    Args:
        config: sizes and structure.
        common: the other arguments of `Student`, by name.
    """

    def __init__(self, config: DCNv2Config, **common: Any):
        super().__init__(
            dim=config.dim,
            history_length=config.history_length,
            history_pooling=config.history_pooling,
            **common,
        )
        self.stacked = config.structure == "stacked"
        with seeded(self.seed, "student"):
            self.cross = nn.ModuleList(
                CrossLayer(self.input_width, config.cross_rank) for _ in range(config.cross_layers)
            )
            self.deep = MLP(self.input_width, config.mlp)
            self.add_heads(config.mlp[-1] + (0 if self.stacked else self.input_width))

    def forward(self, batch: Batch) -> Output:
        fields = self.fields(batch)
        first = x = self.flat_input(fields, batch)
        for layer in self.cross:
            x = layer(first, x)
        penultimate = self.deep(x) if self.stacked else torch.cat([x, self.deep(first)], dim=1)
        return self.output(fields, penultimate)


def build(config: DCNv2Config, **common: Any) -> DCNv2:
    """Builder for the registry; `common` are the arguments of `Student`."""
    return DCNv2(config, **common)
