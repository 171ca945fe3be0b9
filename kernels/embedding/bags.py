"""From a batch's ids to the bags of the one fused table: checked, moved to their rows, dealt to its keys.

Shape letters: B examples, F features, T history events of the batch, K keys, N >= F * B + T bags.
"""

from __future__ import annotations

import itertools

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import KeyedJaggedTensor

from kernels.embedding.keys import KEYS
from kernels.embedding.substitute import complete_cumsum, in_order, is_substituted, permuted


class Layout:
    """Where each feature's rows lie in the fused table.

    Args:
        tables: feature to number of rows.
        history_feature: the feature whose rows history ids look into.
        device: where the ids are.

    Attributes:
        ranges: feature to its first row and the row after its last.
        n_rows: rows of all features.
        history_feature: as given.
        owners: the features, then the history's feature once more: owners of ids in the order of a look-up.
        sizes, first_rows: int64 [len(owners)].
    """

    def __init__(self, tables: dict[str, int], history_feature: str | None, device: torch.device):
        ends = itertools.accumulate(tables.values())
        self.ranges = {
            name: (end - rows, end) for (name, rows), end in zip(tables.items(), ends, strict=True)
        }
        self.n_rows = sum(tables.values())
        self.history_feature = history_feature
        self.owners = (*tables, *((history_feature,) if history_feature is not None else ()))
        self.sizes = torch.tensor([tables[owner] for owner in self.owners], device=device)
        self.first_rows = torch.tensor([self.ranges[owner][0] for owner in self.owners], device=device)
        self._orders: dict[tuple[str, ...], list[int]] = {}

    def in_order(self, sparse: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The same ids with the features in the tables' order and no others.

        Raises:
            ValueError: a feature is missing.
        """
        keys = tuple(sparse.keys())
        if keys == tuple(self.ranges):
            return sparse
        if keys not in self._orders:
            missing = [feature for feature in self.ranges if feature not in keys]
            if missing:
                raise ValueError(f"sparse: got the features {', '.join(keys)}; missing: {', '.join(missing)}")
            self._orders[keys] = [keys.index(feature) for feature in self.ranges]
        order = self._orders[keys]
        return in_order(sparse, order) if is_substituted(self.sizes.device) else sparse.permute(order)


def gather_bags(
    layout: Layout, sparse: KeyedJaggedTensor, history_ids: Tensor | None, total: int
) -> KeyedJaggedTensor:
    """All bags of a batch for one look-up.

    Bags are counted example by example (b * F + f), then the events, then empty ones up to N, and dealt to the keys in
    turn.

    Args:
        layout: where the features' rows lie.
        sparse: the features of the layout, in its order.
        history_ids: int64 [T] or None.
        total: N.

    Returns:
        The look-up's input with N / K bags per key.

    Raises:
        ValueError: an id is outside its table.
    """
    ids, lengths, batch = sparse.values(), sparse.lengths().long(), sparse.stride()
    events = 0 if history_ids is None else history_ids.numel()
    if _all_ones(lengths, ids):
        dealt = _gather_ones(layout, ids.view(len(layout.ranges), batch), history_ids, total)
        if dealt is not None:
            return dealt
    # Any number of ids in a bag, or an id outside its table, which is named here.
    per_owner = lengths.view(len(layout.ranges), batch).sum(1)
    if history_ids is not None:
        ids = torch.cat([ids, history_ids])
    if layout.history_feature is not None:
        per_owner = torch.cat([per_owner, per_owner.new_tensor([events])])
    rows = rows_in_table(layout, ids, per_owner)
    order, lengths = _deal(lengths, len(layout.ranges), batch, events, total)
    if is_substituted(rows.device):
        lengths, rows = permuted(order, lengths, rows)
        return _dealt(rows, complete_cumsum(lengths))
    lengths, rows, _ = torch.ops.fbgemm.permute_1D_sparse_data(order, lengths, rows, None, rows.numel())
    return _dealt(rows, torch.ops.fbgemm.asynchronous_complete_cumsum(lengths))


def _dealt(rows: Tensor, offsets: Tensor) -> KeyedJaggedTensor:
    """Bags of all keys, the first N / K of them being the first key's."""
    stride = (offsets.numel() - 1) // len(KEYS)
    ends = offsets[::stride].tolist()
    return KeyedJaggedTensor(
        list(KEYS),
        rows,
        offsets=offsets,
        stride=stride,
        # torchrec would sum the lengths again for these two.
        length_per_key=[end - start for start, end in itertools.pairwise(ends)],
        offset_per_key=ends,
    )


def _all_ones(lengths: Tensor, ids: Tensor) -> bool:
    """True when every bag holds one id, as single-valued features do."""
    return ids.numel() == lengths.numel() and bool((lengths == 1).all())


def _gather_ones(
    layout: Layout, ids: Tensor, history_ids: Tensor | None, total: int
) -> KeyedJaggedTensor | None:
    """`gather_bags` where every bag holds one id, in half the time; None when an id is outside its table.

    Args:
        layout: where the features' rows lie.
        ids: int64 [F, B].
        history_ids: int64 [T] or None.
        total: N.
    """
    features = len(ids)
    rows = (ids + layout.first_rows[:features].unsqueeze(1)).t().reshape(-1)
    inside = ((ids >= 0) & (ids < layout.sizes[:features].unsqueeze(1))).all()
    if history_ids is not None:
        inside &= ((history_ids >= 0) & (history_ids < layout.sizes[-1])).all()
        rows = torch.cat([rows, history_ids + layout.first_rows[-1]])
    if not inside:
        return None
    hands = [rows[key :: len(KEYS)] for key in range(len(KEYS))]
    places = torch.arange(total // len(KEYS), device=ids.device)
    ends = list(itertools.accumulate(map(len, hands)))
    starts = [end - len(hand) + places.clamp_max(len(hand)) for hand, end in zip(hands, ends, strict=True)]
    return _dealt(torch.cat(hands), torch.cat([*starts, places.new_tensor(ends[-1:])]))


def rows_in_table(layout: Layout, ids: Tensor, per_owner: Tensor) -> Tensor:
    """Ids as rows of the fused table; an id outside its own table is an error, never a neighbour's row.

    Args:
        layout: where the features' rows lie.
        ids: int64 [M], owner by owner.
        per_owner: int64 [owners], how many of the ids are each owner's.

    Raises:
        ValueError: an id is outside its table.
    """
    sizes = layout.sizes.repeat_interleave(per_owner, output_size=ids.numel())
    bad = (ids < 0) | (ids >= sizes)
    if bad.any():
        position = int(bad.nonzero()[0])
        owner = layout.owners[int(torch.searchsorted(per_owner.cumsum(0), position, right=True))]
        size = int(sizes[position])
        raise ValueError(
            f"feature '{owner}': got id {int(ids[position])}, allowed: 0 to {size - 1} (size {size})"
        )
    return ids + layout.first_rows.repeat_interleave(per_owner, output_size=ids.numel())


def padded(bags: int, alike: bool) -> int:
    """N: a multiple of K, at least that and the number of bags.

    Args:
        bags: F * B + T.
        alike: the same in all processes (gloo scatters equal parts only); then a collective call where there are
            several.
    """
    total = len(KEYS) * max(1, -(-bags // len(KEYS)))
    if not alike or dist.get_world_size() == 1:
        return total
    largest = torch.tensor(total)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def _deal(lengths: Tensor, features: int, batch: int, events: int, total: int) -> tuple[Tensor, Tensor]:
    """The order in which bags go to the keys, and the lengths of all bags before that, padding last.

    Args:
        lengths: int64 [F * B], feature by feature.
        features: F.
        batch: B.
        events: T.
        total: N.

    Returns:
        int32 [N] positions and int64 [N] lengths.
    """
    order = torch.arange(total, dtype=torch.int32, device=lengths.device)
    by_example = order[: features * batch].view(features, batch).t().reshape(-1)
    order = torch.cat([by_example, order[features * batch :]])
    extra = lengths.new_zeros(total - features * batch)
    extra[:events] = 1
    return order.view(-1, len(KEYS)).t().reshape(-1), torch.cat([lengths, extra])
