"""Numbers the raw ids of a folder of days: one pass over the columns whose schema says `vocabulary` or `hash`.

Order of a vocabulary: the values of an earlier one where the folder has it, then those of the history events from
before the first day, then day by day in the order of files and rows. So a further day adds values at the end, and the
rows of old ones stay. Content vectors number nothing: an item that never occurs has no row.

Memory: the distinct values, about three times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.errors import DataError
from distill.parquet import ParquetPart
from distill.schema import FeatureSchema, SparseFeature
from distill.vocabulary import Vocabulary, hashed, is_list, list_parts, load, raw_values

_AT_ONCE = 1 << 20


def collect(
    schema: FeatureSchema, earlier: Path, events: ParquetPart | None, days: Iterable[Sequence[ParquetPart]]
) -> dict[str, Vocabulary]:
    """The vocabularies of a data set.

    Args:
        schema: of the source; sizes may be open.
        earlier: folder with `<feature>.parquet` of vocabularies that are to be continued; may not exist.
        events: history from before the first day.
        days: files by day, which have the schema's columns.

    Returns:
        By feature, sizes filled in; empty where the schema gives row numbers only.

    Raises:
        DataError: other values than whole numbers or texts, or both in one column; more of them than the schema has
            rows.
    """
    features = [feature for feature in schema.sparse.values() if feature.ids != "rows"]
    found = {feature.name: _Collector(feature, earlier / f"{feature.name}.parquet") for feature in features}
    of_events = [name for name in found if name in ("user_id", schema.item_feature)]
    if events is not None:
        _read(events, of_events, found)
    for part in (part for parts in days for part in parts):
        _read(part, list(found), found)
    return {name: collector.vocabulary() for name, collector in found.items()}


def with_sizes(schema: FeatureSchema, vocabularies: dict[str, Vocabulary]) -> FeatureSchema:
    """The schema with the sizes that the vocabularies have."""
    features = {name: vocabulary.feature for name, vocabulary in vocabularies.items()}
    return dataclasses.replace(schema, sparse=schema.sparse | features)


def as_rows(table: pa.Table, vocabularies: Mapping[str, Vocabulary], path: Path) -> pa.Table:
    """The table with rows in the place of raw values.

    Args:
        table: some columns of a file.
        vocabularies: by feature.
        path: the file, for messages.

    Raises:
        DataError: values that are of another kind or have no row; null as a user.
    """
    for name in (name for name in vocabularies if name in table.column_names):
        if name == "user_id" and table[name].null_count:
            raise DataError(
                f"{path}: user_id: got {table[name].null_count} nulls, allowed: a user in every row. Give the unknown "
                "ones an id of their own: those who share one share a past."
            )
        rows = vocabularies[name].rows_of(table[name], f"{path}: {name}")
        table = table.set_column(table.column_names.index(name), name, rows)
    return table


def _read(part: ParquetPart, names: Sequence[str], found: dict[str, _Collector]) -> None:
    for group in range(len(part.row_groups) if names else 0):
        table = part.read(names, group)
        for name in names:
            found[name].add(table[name].combine_chunks(), f"{part.path}: {name}")


class _Collector:
    """Distinct values of one feature in the order in which they first appear."""

    def __init__(self, feature: SparseFeature, earlier: Path):
        self._feature, self._earlier = feature, earlier
        self._kind: pa.DataType | None = None
        self._parts: list[pa.Array] = []
        self._waiting = 0
        if feature.ids == "vocabulary" and earlier.is_file():
            # Its size is that of the values so far; whether all fit is asked at the end.
            values = load(earlier, dataclasses.replace(feature, size=0)).values
            self._kind = values.type
            self._parts = [values.drop_null()]

    def add(self, array: pa.Array, where: str) -> None:
        """More values, or lists of them."""
        if is_list(array.type):
            array = list_parts(array, where)[1]
        new = pc.unique(raw_values(array, where, self._kind)).drop_null()
        if not len(new):
            return
        self._kind = new.type
        self._parts.append(new)
        self._waiting += len(new)
        if self._waiting > max(_AT_ONCE, len(self._parts[0])):
            self._settle()

    def vocabulary(self) -> Vocabulary:
        """All of them, with a row each."""
        feature, first = self._feature, int(self._feature.unknown)
        if self._kind is None:
            raise DataError(
                f"{feature.name}: got no values in any file, allowed: at least one; leave it out of schema.yaml"
            )
        self._settle()
        (values,) = self._parts
        rows = self._rows(values)
        if feature.size and first + len(values) > feature.size:
            unknown = ", one of them for unknown values" if first else ""
            raise DataError(
                f"{feature.name}: got {len(values)} values, allowed: {feature.size - first} (size {feature.size}"
                f"{unknown}). Raise its size in schema.yaml, or leave it out: rows of old values stay"
            )
        order = np.argsort(rows)
        none = pa.nulls(first, self._kind)
        return Vocabulary(
            dataclasses.replace(feature, size=feature.size or first + len(values)),
            pa.concat_arrays([none, values.take(pa.array(order))]),
            np.concatenate([np.zeros(first, np.int64), rows[order]]),
        )

    def _settle(self) -> None:
        """Bring what was found so far together; of a hash, the first value of each row is enough."""
        values = pc.unique(pa.chunked_array(self._parts))
        if self._feature.ids == "hash":
            values = values.take(pa.array(np.sort(np.unique(self._rows(values), return_index=True)[1])))
        self._parts, self._waiting = [values], 0

    def _rows(self, values: pa.Array) -> np.ndarray:
        if self._feature.ids == "hash":
            return hashed(values, self._feature)
        return np.arange(len(values)) + int(self._feature.unknown)
