"""DeepFM (Guo et al., arXiv 1703.04247): a factorization machine and an MLP over the same embeddings.

Shape letters: B examples, F fields, D embedding dim, N dense features, k tasks, C extra columns of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.protocols import Output
from distill.seeding import seeded
from students.base import Student
from students.blocks import MLP, SecondOrder
from students.config import DeepFMConfig

FIRST_ORDER_SCALE = 0.5


class DeepFM(Student):
    """Logit = first order + second order + MLP; the serving heads weigh the three, by 1 at the start.

    An id's first-order weights, one for each task, are extra columns of its row: no second look-up is needed.
    The row-wise AdaGrad then has one moment for both, and the first-order weight's gradient, larger by far,
    would slow the embedding down; so the columns enter times 0.5. At its best learning rate this is as good
    as a table of its own, where the linear form w . e (FwFM, arXiv 1806.03514) is no better than no first
    order at all (experiments/benchmarks/first_order.py). Dense features enter the first order and the MLP.

    Args:
        config: sizes.
        common: the other arguments of `Student`, by name.
    """

    def __init__(self, config: DeepFMConfig, **common: Any):
        super().__init__(
            dim=config.dim,
            extra_columns=-(-len(common["tasks"]) // 4) * 4,
            history_length=config.history_length,
            history_pooling=config.history_pooling,
            **common,
        )
        n_tasks, n_dense = len(self.tasks), len(self.dense_features)
        with seeded(self.seed, "student"):
            self.deep = MLP(self.input_width, config.mlp)
            self.first_order = nn.Linear(n_dense, n_tasks, bias=False) if n_dense else None
            self.add_heads(config.mlp[-1] + n_tasks + 1)
        with torch.no_grad():
            # As in the paper's sum; with several tasks each has a first order of its own.
            self.heads.weight[:, config.mlp[-1] : -1] = torch.eye(n_tasks)
            self.heads.weight[:, -1] = 1

    def forward(self, batch: Batch) -> Output:
        rows = self.fields(batch)
        n_tasks = len(self.tasks)
        fields, weights, _ = rows.split([self.dim, n_tasks, rows.size(2) - self.dim - n_tasks], dim=2)
        fields = fields.contiguous()
        parts = [
            self.deep(self.flat_input(fields, batch)),
            self._first_order(weights, batch),
            SecondOrder.apply(fields),
        ]
        return self.output(fields, torch.cat(parts, dim=1))

    def _first_order(self, weights: Tensor, batch: Batch) -> Tensor:
        """Linear terms, [B, k], from the ids' weights [B, F, k] and the dense features."""
        of_ids = FIRST_ORDER_SCALE * weights.sum(1)
        return of_ids if self.first_order is None else of_ids + self.first_order(batch.dense)


def build(config: DeepFMConfig, **common: Any) -> DeepFM:
    """Builder for the registry; `common` are the arguments of `Student`."""
    return DeepFM(config, **common)
