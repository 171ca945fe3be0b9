"""The definition of the tables' look-up and of their row-wise AdaGrad, of one member, in any precision.

`EmbeddingTables` is this in float32, `WideTables` this for several members at once.

Shape letters: E rows of all features, D embedding dim, B examples, F features, T history events of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from kernels.embedding.bags import Layout
from kernels.embedding.store import EPS
from kernels.embedding.tables import Embedded, initial_rows


class ReferenceTables(nn.Module):
    """Stands in for `EmbeddingTables` where another precision is wanted; for small tables only.

    Bags times rows is a product with a matrix of counts C [B * F + T, E], so a row's gradient is C^T times theirs.

    Args:
        tables, dim, seed, learning_rate, history_feature, init_std: as of `EmbeddingTables`.
        dtype: of rows and moments.
    """

    def __init__(
        self,
        tables: Mapping[str, int],
        dim: int,
        seed: int,
        learning_rate: float,
        history_feature: str | None = None,
        init_std: float = 0.01,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        self.dim, self.learning_rate = dim, learning_rate
        self.layout = Layout(dict(tables), history_feature, torch.device("cpu"))
        rows = [initial_rows(seed, name, size, dim, init_std) for name, size in tables.items()]
        self.weight = torch.cat(rows).to(dtype)
        self.moment = torch.zeros(len(self.weight), dtype=dtype)
        self._anchor = torch.zeros((), requires_grad=True)

    def forward(self, sparse: KeyedJaggedTensor, history_ids: Tensor | None = None) -> Embedded:
        """[B, F, D] and [T, D], as `EmbeddingTables` gives; the backward pass updates the tables."""
        bags = sparse.to_dict()
        counts = [
            self._counts(name, bags[name].values(), bags[name].lengths()) for name in self.layout.ranges
        ]
        of_features, of_events = (
            torch.stack(counts, 1).flatten(0, 1),
            self.weight.new_zeros(0, len(self.weight)),
        )
        if history_ids is not None:
            assert self.layout.history_feature is not None
            of_events = self._counts(self.layout.history_feature, history_ids, torch.ones_like(history_ids))
        found = _Product.apply(self._anchor, self, torch.cat([of_features, of_events]))
        features, events = found.split([len(of_features), len(of_events)])
        shape = (sparse.stride(), len(counts), self.dim)
        return Embedded(features.view(shape), None if history_ids is None else events)

    def _counts(self, feature: str, ids: Tensor, lengths: Tensor) -> Tensor:
        """How often each row is in each bag, [bags, E]."""
        counts = self.weight.new_zeros(len(lengths), len(self.weight))
        bags = torch.arange(len(lengths)).repeat_interleave(lengths)
        rows = self.layout.ranges[feature][0] + ids
        return counts.index_put_((bags, rows), counts.new_ones(len(ids)), accumulate=True)

    def update(self, gradient: Tensor) -> None:
        """m += mean of g^2 over D; w -= rate * g / (sqrt(m) + eps): [E, D], zeros at rows that were not looked up."""
        self.moment += gradient.square().mean(1)
        self.weight -= self.learning_rate * gradient / (self.moment.sqrt() + EPS).unsqueeze(1)

    def export(self) -> dict[str, Tensor]:
        """All rows and moments, copied, named as of `EmbeddingTables`."""
        state = {}
        for feature, (first, end) in self.layout.ranges.items():
            state[f"{feature}.weight"] = self.weight[first:end].clone()
            state[f"{feature}.momentum"] = self.moment[first:end].clone()
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `export` gave."""
        for feature, (first, end) in self.layout.ranges.items():
            self.weight[first:end] = state[f"{feature}.weight"]
            self.moment[first:end] = state[f"{feature}.momentum"]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tables: ReferenceTables, counts: Tensor) -> Tensor:
        ctx.tables, ctx.counts = tables, counts
        return counts @ tables.weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.tables.update(ctx.counts.t() @ gradients[0])
        return None, None, None
