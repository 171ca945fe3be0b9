"""One pass over a day for the banks of several surfaces: rows are decoded once and dealt out by surface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from distill.batch import Batch
from distill.block import Block
from distill.dataset import DataSet
from distill.day_reader import DayReader
from distill.stream import DayStream

ROWS = 8192
"""Rows that are dealt out at once."""


class DealtDay(DayStream):
    """Batches of one day, each of one surface: what `DayStream(domains=surface)` yields of each, in one stream.

    A batch comes as soon as its surface has enough rows; the short ones come at the end, surface by surface. It does
    not resume in mid-day.

    Args:
        data, day, batch_size, features, dense: as of `DayStream`.
        surfaces: for each bank that trains on its own, the names of its domains; no domain twice.
        options: further arguments of `DayStream`, those that all surfaces share; one shard only.

    Raises:
        ValueError: a domain that stands twice, or several shards.
        DataError: as `DayStream` of each surface.
    """

    def __init__(
        self,
        data: DataSet,
        day: int,
        batch_size: int,
        features: Sequence[str],
        dense: Sequence[str],
        surfaces: Sequence[Sequence[str]],
        **options: Any,
    ):
        names = [name for surface in surfaces for name in surface]
        if len(set(names)) < len(names):
            raise ValueError(
                f"surfaces: got {', '.join(names)}, allowed: each domain once. Leave out repeated ones"
            )
        shards = options.get("num_shards", 1)
        if shards != 1:
            raise ValueError(f"num_shards: got {shards}, allowed: 1. Train a bank in one process")
        super().__init__(data, day, batch_size, features, dense, domains=names, **options)
        self._codes = [torch.tensor([data.schema.domain_index(name) for name in of]) for of in surfaces]
        # Of wanted rows: sampled negatives are counted as a stream of the surface alone would count them.
        readers = [
            DayReader(data, day, (), (), surface, False, self.reader.labels, self.reader.negatives)
            for surface in surfaces
        ]
        for reader in readers:
            reader.refuse_nothing_kept()
        self._rows = [reader.rows for reader in readers]

    def __len__(self) -> int:
        """Batches of all surfaces."""
        return sum(-(-rows // self.batch_size) for rows in self._rows)

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError("a day that is dealt out does not resume in its middle")

    def _batches(self, start: int) -> Iterator[Batch]:
        assert start == 0, "a day that is dealt out begins at its start"
        waiting: dict[int, Block] = {}
        for first in range(0, self.reader.rows, ROWS):
            block = self.reader.read(first, min(first + ROWS, self.reader.rows))
            for surface, codes in enumerate(self._codes):
                taken = block.take(torch.isin(block.domain, codes).nonzero().flatten())
                rows = Block.join([waiting[surface], taken]) if surface in waiting else taken
                whole = len(rows) // self.batch_size * self.batch_size
                for begin in range(0, whole, self.batch_size):
                    yield self.batch_of(rows.slice(begin, begin + self.batch_size))
                waiting[surface] = rows.slice(whole, len(rows))
        for rest in waiting.values():
            if len(rest):
                yield self.batch_of(rest)
