"""From a batch's ids to the bags of a wide look-up: example by example, then the history's events.

Shape letters: B examples, F features, T history events of the batch, M ids of all bags.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from kernels.embedding.bags import Layout, rows_in_table
from kernels.embedding.substitute import is_substituted, permuted


@dataclass(frozen=True)
class History:
    """A batch's history as one more bag of every example.

    Attributes:
        ids: int64 [T], ids of the history feature.
        offsets: int64 [B + 1]; the events of example b lie at offsets[b]:offsets[b + 1].
        mean: divide the sum by the number of events.
    """

    ids: Tensor
    offsets: Tensor
    mean: bool


@dataclass(frozen=True)
class Bags:
    """Which rows are summed.

    Attributes:
        rows: int64 [M], rows of the fused table.
        offsets: int64 [bags + 1]; bag i sums rows[offsets[i]:offsets[i + 1]]. None: every row is a bag of its own.
        factors: float [M], on each row; None for 1.
        fields: bags of an example: F, with a pooled history one more. After those of all examples come single events.
        batch: B.
    """

    rows: Tensor
    offsets: Tensor | None
    factors: Tensor | None
    fields: int
    batch: int

    def __len__(self) -> int:
        return self.rows.numel() if self.offsets is None else self.offsets.numel() - 1

    def of_rows(self) -> Tensor:
        """int64 [M], the bag that each row is in, where bags hold any number of rows."""
        assert self.offsets is not None
        bags = torch.arange(len(self), device=self.rows.device)
        return bags.repeat_interleave(self.offsets.diff(), output_size=self.rows.numel())


def single_bags(layout: Layout, sparse: KeyedJaggedTensor, history_ids: Tensor | None) -> Bags:
    """One bag for each example and feature (b * F + f), and one for each event.

    Args:
        layout: where the features' rows lie.
        sparse: at least the features of the layout.
        history_ids: int64 [T] or None.

    Raises:
        ValueError: a feature is missing, or an id is outside its table.
    """
    sparse = layout.in_order(sparse)
    rows, lengths = _rows(layout, sparse, history_ids), sparse.lengths().long()
    of_features, of_events = rows.split([sparse.values().numel(), rows.numel() - sparse.values().numel()])
    rows, lengths = _by_example(of_features, lengths, sparse.stride())
    if history_ids is not None:
        rows = torch.cat([rows, of_events])
        lengths = torch.cat([lengths, lengths.new_ones(history_ids.numel())])
    return Bags(rows, _offsets(lengths), None, len(layout.ranges), sparse.stride())


def pooled_bags(layout: Layout, sparse: KeyedJaggedTensor, history: History, dtype: torch.dtype) -> Bags:
    """One bag for each example and feature (b * (F + 1) + f), the history being the last feature.

    Args:
        layout: where the features' rows lie.
        sparse: at least the features of the layout.
        history: the events.
        dtype: of the factors that make a mean.

    Raises:
        ValueError: a feature is missing, or an id is outside its table.
    """
    sparse = layout.in_order(sparse)
    rows, events = _rows(layout, sparse, history.ids), history.offsets.diff()
    rows, lengths = _by_example(rows, torch.cat([sparse.lengths().long(), events]), sparse.stride())
    fields, factors = len(layout.ranges) + 1, None
    if history.mean:
        of_bags = torch.ones(sparse.stride(), fields, dtype=dtype, device=rows.device)
        of_bags[:, -1] /= events.clamp_min(1)
        factors = of_bags.flatten().repeat_interleave(lengths, output_size=rows.numel())
    return Bags(rows, _offsets(lengths), factors, fields, sparse.stride())


def _rows(layout: Layout, sparse: KeyedJaggedTensor, history_ids: Tensor | None) -> Tensor:
    """Rows of the features' ids, feature by feature, then the history's; int64 [M]."""
    if history_ids is not None and layout.history_feature is None:
        raise ValueError("history_ids: got ids, allowed: None, because no history_feature was set")
    ids, per_owner = sparse.values(), sparse.lengths().long().view(len(layout.ranges), sparse.stride()).sum(1)
    if layout.history_feature is not None:
        history_ids = ids[:0] if history_ids is None else history_ids
        per_owner = torch.cat([per_owner, per_owner.new_tensor([history_ids.numel()])])
        ids = torch.cat([ids, history_ids])
    return rows_in_table(layout, ids, per_owner)


def _by_example(rows: Tensor, lengths: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Rows and lengths of bags that stand feature by feature (f * B + b), in the order b * F + f.

    A member's rows of one example then lie close together: to sort them by member takes half the time.
    """
    bags = torch.arange(lengths.numel(), dtype=torch.int32, device=rows.device)
    order = bags.view(-1, batch).t().reshape(-1) if batch else bags
    if is_substituted(rows.device):
        lengths, rows = permuted(order, lengths, rows)
    else:
        lengths, rows, _ = torch.ops.fbgemm.permute_1D_sparse_data(order, lengths, rows, None, rows.numel())
    return rows, lengths


def _offsets(lengths: Tensor) -> Tensor | None:
    """int64 [bags + 1]; None when every bag holds one id."""
    if bool((lengths == 1).all()):
        return None
    offsets = lengths.new_zeros(lengths.numel() + 1)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets
