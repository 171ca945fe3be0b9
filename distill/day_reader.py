"""The rows of one day by position, read and decoded by row group; `distill.stream` makes batches of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distill.block import Block
from distill.dataset import DataSet
from distill.delay import LabelRule, Matured, Targets
from distill.errors import DataError, nearest
from distill.parquet import ParquetPart
from distill.rows import Rows, check_columns, check_rows, check_types, columns_for, decode, maturity_columns
from distill.sampling import NegativeSampling, sampled


@dataclass(frozen=True)
class _Group:
    """A row group with its number of wanted rows."""

    path: Path
    index: int
    rows: int


class DayReader:
    """Wanted rows of a day, addressed by position. Made to be read forwards: two groups are kept.

    Args:
        data: the data set.
        day: day number.
        features: sparse features to decode.
        dense: dense features to decode.
        domains: names of the surfaces wanted, None for all.
        validate: check the data contract on every row group that is read.
        labels: what training on the day learns from; None for matured labels.
        negatives: which rows are wanted of those that are not known to be positive; None for all.
        share: of the rows that is wanted, by their ids (`distill.sampling.sampled`).

    Raises:
        DataError: unknown feature or surface, a day, file, column or row missing, an unreadable file.
    """

    def __init__(
        self,
        data: DataSet,
        day: int,
        features: Sequence[str],
        dense: Sequence[str],
        domains: Collection[str] | None,
        validate: bool,
        labels: LabelRule | None = None,
        negatives: NegativeSampling | None = None,
        share: float = 1.0,
    ):
        _check_names("sparse feature", features, data.schema.sparse)
        _check_names("dense feature", dense, data.schema.dense)
        self.data, self.day = data, day
        self.features, self.dense, self.validate = features, dense, validate
        self.labels = labels or Matured(data.schema)
        self.negatives, self.share = negatives, share
        assert negatives is None or self.labels.kind != "weighted", (
            "a target of 0 may be a positive not seen yet"
        )
        names = data.schema.domains if domains is None else domains
        self._wanted = np.array([data.schema.domain_index(name) for name in names])
        self._all = domains is None and negatives is None and share == 1
        self._groups = [group for part in self._open_parts() for group in self._scan(part)]
        self._starts = np.cumsum([0] + [group.rows for group in self._groups])
        self._blocks: dict[int, Block] = {}
        self._last_keys: dict[int, tuple[int, int]] = {}

    @property
    def rows(self) -> int:
        return int(self._starts[-1])

    def place(self, row: int) -> tuple[int, int]:
        """Row group of a position, and the position within it."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - int(self._starts[group])

    def row_at(self, group: int, row: int) -> int:
        """The position that `place` turned into these two."""
        return int(self._starts[group]) + row

    def read(self, start: int, stop: int) -> Block:
        """The rows at positions start to stop."""
        parts = []
        group = self.place(start)[0]
        while start < stop:
            first, end = int(self._starts[group]), int(self._starts[group + 1])
            if start < end:
                parts.append(self._block(group).slice(start - first, min(stop, end) - first))
            start, group = max(start, end), group + 1
        return Block.join(parts)

    def _block(self, group: int) -> Block:
        if group not in self._blocks:
            kept = {g: block for g, block in self._blocks.items() if g == group - 1}
            self._blocks = {**kept, group: self._load(group)}
        return self._blocks[group]

    def _load(self, group: int) -> Block:
        path, index = self._groups[group].path, self._groups[group].index
        where = f"{path}, row group {index}"
        rows = self._decode(ParquetPart(path), index, self.features, self.dense)
        if self.validate:
            check_rows(rows, self.data.schema, self.dense, where)
            self._check_follows(rows, group, where)
        targets = self.labels(rows, self.day)
        block = Block.from_rows(rows, targets)
        return block if self._all else block.take(torch.from_numpy(self._select(rows, targets)))

    def _decode(self, part: ParquetPart, group: int, features: Sequence[str], dense: Sequence[str]) -> Rows:
        schema = self.data.schema
        matures = [name for name in maturity_columns(schema) if name in part.columns]
        table = part.read([*columns_for(schema, features, dense), *matures], group)
        return decode(table, schema, features, dense, f"{part.path}, row group {group}")

    def _select(self, rows: Rows, targets: Targets) -> np.ndarray:
        wanted = np.isin(rows.domain, self._wanted) & sampled(rows.example_id, self.share)
        if self.negatives is not None:
            k = self.data.schema.task_names.index(self.negatives.task)
            positive = targets.mask[:, k] & (targets.labels[:, k] == 1)
            wanted &= self.negatives.keeps(rows.example_id, positive, among=self.share)
        return np.flatnonzero(wanted)

    def _check_follows(self, rows: Rows, group: int, where: str) -> None:
        if not len(rows):
            return
        first = (int(rows.timestamp[0]), int(rows.example_id[0]))
        before = self._last_keys.get(group - 1)
        if before is not None and first <= before:
            raise DataError(
                f"{where}: rows are not sorted by (timestamp, example_id): {first} follows {before}"
            )
        self._last_keys[group] = (int(rows.timestamp[-1]), int(rows.example_id[-1]))

    def _open_parts(self) -> list[ParquetPart]:
        parts = [ParquetPart(path) for path in self.data.parts(self.day)]
        needed = columns_for(self.data.schema, self.features, self.dense)
        for part in parts:
            check_columns(part.columns, self.data.schema, str(part.path), needed)
            check_types(part.schema, self.data.schema, str(part.path))
        rows, expected = sum(sum(part.row_groups) for part in parts), self.data.rows_per_day[self.day]
        if rows != expected:
            raise DataError(
                f"{parts[0].path.parent}: got {rows} rows, allowed: {expected} by the manifest. "
                "Remove the prepared data set, and it is made anew."
            )
        return parts

    def _scan(self, part: ParquetPart) -> list[_Group]:
        rows = part.row_groups
        if not self._all:
            rows = [self._count(part, group) for group in range(len(rows))]
        return [_Group(part.path, group, count) for group, count in enumerate(rows)]

    def _count(self, part: ParquetPart, group: int) -> int:
        if self.negatives is None:
            return self._count_wanted(part, group)
        rows = self._decode(part, group, (), ())
        return len(self._select(rows, self.labels(rows, self.day)))

    def _count_wanted(self, part: ParquetPart, group: int) -> int:
        table = part.read(["domain", "example_id"], group)
        wanted = np.isin(table["domain"].to_numpy(), self._wanted)
        return int((wanted & sampled(table["example_id"].to_numpy(), self.share)).sum())

    def refuse_nothing_kept(self) -> None:
        """A day without a batch would end a training early, without a word.

        Raises:
            DataError: the sampling of negatives keeps none of the day's rows.
        """
        if self.negatives is None or self.rows:
            return
        rows = sum(self._count_wanted(ParquetPart(group.path), group.index) for group in self._groups)
        if rows:
            names = ", ".join(self.data.schema.domains[place] for place in self._wanted)
            raise DataError(
                f"negative_sampling: got {self.negatives.share}, which keeps none of the {rows} rows of day {self.day} "
                f"({names}), allowed: a larger share, up to 1"
            )


def _check_names(kind: str, names: Iterable[str], allowed: Collection[str]) -> None:
    for name in names:
        if name not in allowed:
            raise DataError(f"{kind}: got '{name}', allowed: {', '.join(allowed)}. {nearest(name, allowed)}")
