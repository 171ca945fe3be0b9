"""A run of decoded rows as tensors, between the Parquet files and the batch.

One decoded row group is one block; a batch is a slice of a block, or of two joined ones.

Shape letters: R rows, S single-valued sparse features, F sparse features, N dense features, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from distill.delay import Targets
from distill.rows import Rows


@dataclass(frozen=True)
class Block:
    """Decoded rows.

    Attributes:
        example_id, user_id, timestamp, domain: int64 [R].
        single: int64 [S, R].
        dense: float32 [R, N].
        labels: float32 [R, K], targets of training; 0 where it may not use the label.
        label_mask: bool [R, K].
        matured: bool [R, K], where the target is a matured label.
        multi: multi-valued features by name, as (offsets int64 [R + 1], ids int64).
    """

    example_id: Tensor
    user_id: Tensor
    timestamp: Tensor
    domain: Tensor
    single: Tensor
    dense: Tensor
    labels: Tensor
    label_mask: Tensor
    matured: Tensor
    multi: dict[str, tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        return self.example_id.numel()

    @classmethod
    def from_rows(cls, rows: Rows, targets: Targets) -> Block:
        """Wrap decoded rows without copying them.

        Args:
            rows: decoded rows.
            targets: what training on the day learns from.
        """
        tensor = torch.from_numpy
        return cls(
            example_id=tensor(rows.example_id),
            user_id=tensor(rows.user_id),
            timestamp=tensor(rows.timestamp),
            domain=tensor(rows.domain),
            single=tensor(rows.single),
            dense=tensor(rows.dense),
            labels=tensor(targets.labels),
            label_mask=tensor(targets.mask),
            matured=tensor(targets.matured),
            multi={name: (tensor(offsets), tensor(ids)) for name, (offsets, ids) in rows.multi.items()},
        )

    def slice(self, start: int, stop: int) -> Block:
        """Rows start to stop, as views."""
        part = slice(start, stop)
        return Block(
            self.example_id[part],
            self.user_id[part],
            self.timestamp[part],
            self.domain[part],
            self.single[:, part],
            self.dense[part],
            self.labels[part],
            self.label_mask[part],
            self.matured[part],
            {name: _slice_jagged(*jagged, start, stop) for name, jagged in self.multi.items()},
        )

    def take(self, index: Tensor) -> Block:
        """The rows at these positions, int64 [R]."""
        plain = {
            f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in ("single", "multi")
        }
        multi = {name: _take_jagged(*jagged, index) for name, jagged in self.multi.items()}
        return Block(**plain, single=self.single[:, index], multi=multi)

    @staticmethod
    def join(blocks: Sequence[Block]) -> Block:
        """The rows of several blocks, one after the other."""
        if len(blocks) == 1:
            return blocks[0]
        plain = {
            f.name: torch.cat([getattr(block, f.name) for block in blocks])
            for f in fields(Block)
            if f.name not in ("single", "multi")
        }
        single = torch.cat([block.single for block in blocks], dim=1)
        multi = {name: _join_jagged([block.multi[name] for block in blocks]) for name in blocks[0].multi}
        return Block(**plain, single=single, multi=multi)

    def keyed_jagged(self, keys: Sequence[str]) -> KeyedJaggedTensor:
        """The sparse features in the asked order.

        Args:
            keys: names; those that are not in `multi` are the rows of `single`, in order.
        """
        if self.multi:
            return self._mixed(keys)
        lengths, offsets = _ones(len(keys) * len(self))
        return KeyedJaggedTensor(
            keys=list(keys),
            values=self.single.reshape(-1),
            lengths=lengths,
            offsets=offsets,
            stride=len(self),
            length_per_key=[len(self)] * len(keys),
        )

    def _mixed(self, keys: Sequence[str]) -> KeyedJaggedTensor:
        ones = torch.ones(len(self), dtype=torch.int64)
        values, lengths, row = [], [], 0
        for key in keys:
            if key in self.multi:
                offsets, ids = self.multi[key]
                values.append(ids)
                lengths.append(offsets.diff())
            else:
                values.append(self.single[row])
                lengths.append(ones)
                row += 1
        all_lengths = torch.cat(lengths)
        offsets = torch.zeros(all_lengths.numel() + 1, dtype=torch.int64)
        torch.cumsum(all_lengths, 0, out=offsets[1:])
        return KeyedJaggedTensor(
            keys=list(keys),
            values=torch.cat(values),
            lengths=all_lengths,
            offsets=offsets,
            stride=len(self),
            length_per_key=[ids.numel() for ids in values],
        )


@lru_cache(maxsize=8)
def _ones(n: int) -> tuple[Tensor, Tensor]:
    """Lengths and offsets of n bags of one id; every batch of a stream but the last has the same."""
    return torch.ones(n, dtype=torch.int64), torch.arange(n + 1)


def _slice_jagged(offsets: Tensor, ids: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    part = offsets[start : stop + 1]
    first, last = int(part[0]), int(part[-1])
    return part - first, ids[first:last]


def _take_jagged(offsets: Tensor, ids: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    start, lengths = offsets[index], offsets.diff()[index]
    taken = torch.zeros(index.numel() + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=taken[1:])
    position = torch.arange(int(taken[-1])) + torch.repeat_interleave(start - taken[:-1], lengths)
    return taken, ids[position]


def _join_jagged(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    lengths = torch.cat([offsets.diff() for offsets, _ in parts])
    offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets, torch.cat([ids for _, ids in parts])
