"""The tables of one part (`kernels.embedding.placement`): where their rows are, bags in, embeddings out.

Shape letters: B examples, T history events of the batch, D embedding dim, E rows of an owner's features, N bags,
K keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from kernels.embedding.bags import Layout, gather_bags, padded
from kernels.embedding.placement import Part
from kernels.embedding.replica import ReplicatedTable
from kernels.embedding.sharding import ShardedTables
from kernels.embedding.substitute import SubstituteTable, is_substituted
from kernels.table_sharding import DATA_PARALLEL

EPS = 1e-8


class Tables(Protocol):
    """One fused table for each owner of a part; the backward pass updates them."""

    def look_up(self, ids: Sequence[KeyedJaggedTensor]) -> list[Tensor]:
        """Rows of each owner's bags, each key's beside those of the one before, [N / K, K * D]."""

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next backward pass on."""

    def local(self, owner: int) -> tuple[int, Tensor, Tensor] | None:
        """Number of the first row that is here, rows and moments from there on, not copied; None when none is."""

    def whole(self, owner: int) -> tuple[Tensor, Tensor]:
        """All rows [E, D] and moments [E]; a collective call where they are shared."""


@dataclass(frozen=True)
class Found:
    """An owner's part of a look-up.

    Attributes:
        rows: [N, D]: example by example, then the events, then empty bags.
        sizes: how many of each of the three.
    """

    rows: Tensor
    sizes: tuple[int, int, int]


class Store:
    """One part's tables.

    Args:
        part: which, and how they are kept.
        tables: feature to number of rows; at least the part's.
        dim: D.
        learning_rate: of the row-wise AdaGrad.
        history_feature: whose rows history ids look into; of this part or another.
        device: where the rows live.
    """

    def __init__(
        self,
        part: Part,
        tables: Mapping[str, int],
        dim: int,
        learning_rate: float,
        history_feature: str | None,
        device: torch.device,
    ):
        self.dim, self._alike = dim, part.kind != DATA_PARALLEL
        self.layouts = {
            owner: Layout(
                {name: tables[name] for name in names},
                history_feature if history_feature in names else None,
                device,
            )
            for owner, names in part.owners.items()
        }
        self.features = [name for names in part.owners.values() for name in names]
        self._tables = self._made(part, learning_rate, device)
        self.set_learning_rate = self._tables.set_learning_rate

    def _made(self, part: Part, learning_rate: float, device: torch.device) -> Tables:
        rows = {owner: layout.n_rows for owner, layout in self.layouts.items()}
        if is_substituted(device):
            return SubstituteTable(rows[0], self.dim, learning_rate, EPS, device)
        if part.kind == DATA_PARALLEL:
            return ReplicatedTable(rows[0], self.dim, learning_rate, EPS, device)
        return ShardedTables(rows, part.kind, part.group, self.dim, learning_rate, EPS, device)

    def look_up(self, sparse: KeyedJaggedTensor, history_ids: Tensor | None) -> list[Found]:
        """What each owner finds.

        Args:
            sparse: at least the features of the part.
            history_ids: int64 [T] or None; read where the history's feature is.

        Raises:
            ValueError: a feature is missing, or an id is outside its table.
        """
        given = [
            (layout, layout.in_order(sparse), None if layout.history_feature is None else history_ids)
            for layout in self.layouts.values()
        ]
        bags = [(ids.lengths().numel(), 0 if events is None else events.numel()) for _, ids, events in given]
        total = padded(max(map(sum, bags)), self._alike)
        found = self._tables.look_up([gather_bags(*one, total) for one in given])
        return [
            Found(rows.view(-1, self.dim), (features, events, total - features - events))
            for rows, (features, events) in zip(found, bags, strict=True)
        ]

    def average_copies(self) -> None:
        """As `EmbeddingTables.average_copies`."""
        if isinstance(self._tables, ShardedTables):
            self._tables.average_copies()

    def whole(self) -> dict[str, Tensor]:
        """Rows and moments, copied: `<feature>.weight` [rows, D] and `<feature>.momentum` [rows]."""
        state = {}
        for owner, layout in self.layouts.items():
            weight, moment = self._tables.whole(owner)
            for feature, (first, end) in layout.ranges.items():
                state[f"{feature}.weight"] = weight[first:end].clone()
                state[f"{feature}.momentum"] = moment[first:end].clone()
        return state

    @torch.no_grad()
    def load(self, feature: str, weight: Tensor, moment: Tensor) -> None:
        """Copy the rows [rows, D] and moments [rows] of a feature of this part, as far as this process holds them."""
        (owner,) = (owner for owner, layout in self.layouts.items() if feature in layout.ranges)
        local = self._tables.local(owner)
        if local is None:
            return
        here, weights, moments = local
        first, end = self.layouts[owner].ranges[feature]
        start, stop = max(first, here), min(end, here + len(weights))
        if start < stop:
            weights[start - here : stop - here] = weight[start - first : stop - first]
            moments[start - here : stop - here] = moment[start - first : stop - first]
