"""The look-up of wide rows as one operation of autograd, and the sums that its two directions are made of.

Both directions are sums of rows, so both are `embedding_bag`: forward a bag sums its rows; backward a row sums the
gradients of the bags that it is in, in the order of the batch.

Shape letters: N members, E rows of all features, D embedding dim, B examples, F features, T history events, M ids of
all bags, U different rows among them.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kernels.embedding.wide_bags import Bags


class Updated(Protocol):
    """What is looked up in (`kernels.embedding.wide.WideTables`)."""

    members: int
    dim: int

    def gather(self, bags: Bags) -> Tensor:
        """The bags' sums of all members, [bags, N * D]."""

    def update(self, bags: Bags, gradient: Tensor) -> None:
        """Train the rows on the bags' gradients [bags, N * D]."""


def look_up(tables: Updated, bags: Bags, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """Rows by member; the backward pass updates the tables.

    Args:
        tables: where to look.
        bags: which rows to sum.
        anchor: a scalar that asks for a gradient.

    Returns:
        Features [N, B, F, D] and events [N, T, D], views of one tensor in which a bag's rows of all members lie side by
        side. A gradient of the features that lies as they do is not copied.
    """
    return _LookUp.apply(anchor, tables, bags)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tables: Updated, bags: Bags) -> tuple[Tensor, Tensor]:
        ctx.tables, ctx.bags = tables, bags
        wide = tables.gather(bags).view(len(bags), tables.members, tables.dim)
        return _by_feature(wide, bags)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        tables, bags = ctx.tables, ctx.bags
        tables.update(bags, _wide(*gradients).flatten(1))
        return None, None, None


def _by_feature(wide: Tensor, bags: Bags) -> tuple[Tensor, Tensor]:
    """Views of [bags, N, D], the features' as [N, B, F, D] and the events' as [N, T, D]."""
    of_features = bags.fields * bags.batch
    features, events = wide.split([of_features, len(bags) - of_features])
    by_example = features.view(bags.batch, bags.fields, *wide.shape[1:]).permute(2, 0, 1, 3)
    return by_example, events.transpose(0, 1)


def _wide(features: Tensor, events: Tensor) -> Tensor:
    """The converse, [bags, N, D]; a copy only of what does not lie so."""
    of_features = features.permute(1, 2, 0, 3).flatten(0, 1)
    return torch.cat([of_features, events.transpose(0, 1)]) if events.numel() else of_features


def rows_of(weight: Tensor, bags: Bags) -> Tensor:
    """The sum of every bag's rows, [bags, N * D] from [E, N * D]."""
    if bags.offsets is None:
        return weight.index_select(0, bags.rows)
    return _sums(weight, bags.rows, bags.offsets, bags.factors)


def summed(bags: Bags, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's gradient, from those of the bags.

    Args:
        bags: which rows were summed; at least one.
        gradient: [bags, N * D].

    Returns:
        The different rows int64 [U], ascending, and their gradients [U, N * D].
    """
    sorted_rows, order = torch.sort(bags.rows, stable=True)
    rows, counts = torch.unique_consecutive(sorted_rows, return_counts=True)
    offsets = counts.new_zeros(len(rows) + 1)
    torch.cumsum(counts, 0, out=offsets[1:])
    places = order if bags.offsets is None else bags.of_rows().index_select(0, order)
    factors = None if bags.factors is None else bags.factors.index_select(0, order)
    return rows, _sums(gradient, places, offsets, factors)


def _sums(values: Tensor, places: Tensor, offsets: Tensor, factors: Tensor | None) -> Tensor:
    return functional.embedding_bag(
        places, values, offsets, mode="sum", include_last_offset=True, per_sample_weights=factors
    )
