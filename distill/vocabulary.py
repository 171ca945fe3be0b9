"""Raw values of a feature as rows of its table: a vocabulary or a hash. Free of torch.

Raw values are whole numbers (int64) or texts, one kind for a feature. The schema's `ids` says how they become rows:

    vocabulary   row n holds the n-th value in the order in which values first appeared. A vocabulary only grows: new
                 values follow the old ones.
    hash         FNV-1a of 64 bits (Fowler, Noll, Vo; offset basis 0xcbf29ce484222325, prime 0x100000001b3) over the
                 UTF-8 bytes of a text, or the 8 little-endian bytes of a whole number: an unsigned number h. The row is
                 1 + h mod (size - 1) where row 0 stands for unknown values, else h mod size.

Row 0 stands for null, and for values outside the vocabulary, unless the schema says `unknown: false`.

On disk: Parquet with the columns `value` and `row`, rows ascending, null as the value of the row of unknown ones. Of a
vocabulary it holds every row, of a hash the first value of each row that occurred.

Shape letters: N values, V rows with a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distill.errors import DataError
from distill.parquet import ParquetPart
from distill.schema import SparseFeature

VOCABULARY, VALUE, ROW = "vocabulary", "value", "row"
WHOLE, TEXT = pa.int64(), pa.large_string()
KINDS = {"integer": WHOLE, "text": TEXT}
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@dataclass(frozen=True)
class Vocabulary:
    """The values of one feature.

    Attributes:
        feature: whose; its `ids` is `vocabulary` or `hash`, its `size` counts all rows.
        values: WHOLE or TEXT [V], distinct; null for the row of unknown values.
        rows: int64 [V], ascending. 0 to V - 1 for a vocabulary.
    """

    feature: SparseFeature
    values: pa.Array
    rows: np.ndarray

    @property
    def kind(self) -> str:
        """`integer` or `text`."""
        return next(kind for kind, found in KINDS.items() if found == self.values.type)

    def rows_of(self, column: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
        """Rows of raw values.

        Args:
            column: raw values [N], or lists of them.
            where: what to call the column in messages.

        Returns:
            int64 [N], or lists of them.

        Raises:
            DataError: neither whole numbers nor texts, or not those of the vocabulary; null in the place of a list; a
                value without a row where no row stands for unknown ones.
        """
        return _each(
            column, where, lambda array: self._rows_of(raw_values(array, where, self.values.type), where)
        )

    def holds(self, column: pa.ChunkedArray, where: str) -> pa.Array:
        """Whether raw values [N] have a row of their own, bool [N]; DataError as `rows_of`."""
        return self._known(raw_values(column.combine_chunks(), where, self.values.type)).is_valid()

    def values_of(self, column: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
        """Raw values of rows, the way back from `rows_of`: the value itself, or one with the same hash.

        Args:
            column: int64 [N], or lists of them; every row must be one that occurred.
            where: what to call the column in messages.
        """
        return _each(column, where, lambda rows: self.values.take(pa.array(np.searchsorted(self.rows, rows))))

    def save(self, path: Path) -> None:
        """Write the file."""
        table = pa.table({VALUE: self.values, ROW: pa.array(self.rows, WHOLE)})
        pq.write_table(table, path, write_page_checksum=True)

    def _rows_of(self, values: pa.Array, where: str) -> pa.Array:
        rows = self._known(values)
        if rows.null_count and not self.feature.unknown:
            unknown = values.filter(rows.is_null())
            raise DataError(
                f"{where}: got {unknown[0].as_py()!r} ({len(unknown)} values), allowed: values that the schema has a "
                "row for; it has none for unknown ones (unknown: false)"
            )
        return pc.fill_null(rows, 0)

    def _known(self, values: pa.Array) -> pa.Array:
        """Rows of values of its kind [N], null for those without a row of their own."""
        distinct = values.dictionary_encode()
        if self.feature.ids == "hash":
            rows = hashed(distinct.dictionary, self.feature)
        else:
            rows = self._looked_up(distinct.dictionary)
        return pa.array(rows, mask=rows < 0).take(distinct.indices)

    def _looked_up(self, values: pa.Array) -> np.ndarray:
        """Rows of a vocabulary's values, int64 [N], -1 for others; at a price that hardly grows with the vocabulary."""
        hashes, rows, most = self._by_hash
        found = np.full(len(values), -1)
        first = np.searchsorted(hashes, fnv1a(values))
        for step in range(most):
            tried = rows[np.minimum(first + step, len(rows) - 1)]
            same = np.asarray(pc.equal(self.values.take(pa.array(tried)), values))
            found[same] = tried[same]
        return found

    @cached_property
    def _by_hash(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Hashes of a vocabulary's values, ascending, their rows, and how many values share a hash at most."""
        hashes, first = fnv1a(self.values.drop_null()), self.values.null_count
        order = np.argsort(hashes)
        most = np.unique(hashes, return_counts=True)[1].max(initial=0)
        return hashes[order], order + first, int(most)


def save_all(folder: Path, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Write `<feature>.parquet` of each into a new folder; no folder where there is none."""
    if vocabularies:
        folder.mkdir()
    for name, vocabulary in vocabularies.items():
        vocabulary.save(folder / f"{name}.parquet")


def load(path: Path, feature: SparseFeature) -> Vocabulary:
    """Read a file that `Vocabulary.save` wrote, or one of the same form.

    Args:
        path: the file.
        feature: whose; a size of 0 counts for as many rows as the file has.

    Raises:
        DataError: no such file, damaged, or of another form; values that stand twice; more rows than the feature has.
    """
    part = ParquetPart(path)
    if not {VALUE, ROW} <= set(part.columns):
        raise DataError(f"{path}: got columns {', '.join(part.columns)}, allowed: {VALUE} and {ROW}")
    table = part.read([VALUE, ROW])
    values = raw_values(table[VALUE].combine_chunks(), f"{path}: {VALUE}")
    rows = raw_values(table[ROW].combine_chunks(), f"{path}: {ROW}", WHOLE).to_numpy(zero_copy_only=False)
    _check(values, rows, feature, path)
    return Vocabulary(feature, values, rows)


def raw_values(array: pa.Array, where: str, kind: pa.DataType | None = None) -> pa.Array:
    """Values of a column as WHOLE or TEXT.

    Args:
        array: integers or texts of any width, dictionaries of them, or nothing but null.
        where: what to call the column in messages.
        kind: that it must have; None for either.

    Raises:
        DataError: other values, or of another kind.
    """
    found = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    target = WHOLE if pa.types.is_integer(found) else TEXT if _is_text(found) else None
    if pa.types.is_null(found):
        target = kind or WHOLE
    if target is None or kind not in (None, target):
        allowed = {None: "whole numbers or texts", WHOLE: "whole numbers", TEXT: "texts"}[kind]
        raise DataError(f"{where}: got {array.type}, allowed: {allowed}. Convert the column before.")
    try:
        return array.cast(target)
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: values do not fit 64 bits: {error}") from error


def hashed(values: pa.Array, feature: SparseFeature) -> np.ndarray:
    """Rows by hash, int64 [N], of WHOLE or TEXT values without null."""
    first = int(feature.unknown)
    return (fnv1a(values) % np.uint64(feature.size - first)).astype(np.int64) + first


def fnv1a(values: pa.Array) -> np.ndarray:
    """FNV-1a hashes, uint64 [N], of WHOLE or TEXT values without null."""
    if values.type == WHOLE:
        content = values.to_numpy().astype("<i8").view(np.uint8)
        offsets = np.arange(0, 8 * len(values) + 1, 8)
    else:
        _, places, data = values.buffers()
        content = np.frombuffer(data or b"", np.uint8)
        offsets = np.frombuffer(places, np.int64)[values.offset : values.offset + len(values) + 1]
    lengths = np.diff(offsets)
    state = np.full(len(values), _BASIS)
    for place in range(lengths.max(initial=0)):  # over the bytes of the longest value, for all values at once
        longer = np.flatnonzero(lengths > place)
        state[longer] = (state[longer] ^ content[offsets[longer] + place]) * _PRIME
    return state


def is_list(kind: pa.DataType) -> bool:
    """A type of lists of any length."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def list_parts(array: pa.Array, where: str) -> tuple[np.ndarray, pa.Array]:
    """Where each list begins, int64 [lists + 1], and the values of all; DataError for null in the place of a list."""
    if array.null_count:
        raise DataError(
            f"{where}: got {array.null_count} nulls, allowed: lists, empty where there is nothing"
        )
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.flatten()


def _each(column: pa.Array | pa.ChunkedArray, where: str, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """A column with changed values, or lists with changed values in them."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not is_list(array.type):
        return change(array)
    starts, flat = list_parts(array, where)
    return type(array).from_arrays(pa.array(starts, array.offsets.type), change(flat))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check(values: pa.Array, rows: np.ndarray, feature: SparseFeature, path: Path) -> None:
    if feature.ids == "vocabulary" and not np.array_equal(rows, np.arange(len(rows))):
        raise DataError(f"{path}: {ROW}: allowed: 0, 1, 2 and so on, one for each value")
    if not len(rows) or (feature.size and rows.max() >= feature.size):
        raise DataError(f"{path}: got {len(rows)} values, allowed: 1 to {feature.size or 'any number'}")
    if len(pc.unique(values)) != len(values):
        raise DataError(f"{path}: {VALUE}: a value stands twice, allowed: each once")
    if values.is_null().to_pylist()[:1] != [feature.unknown] or values.null_count != feature.unknown:
        allowed = "null in row 0, for unknown values" if feature.unknown else "no null (unknown: false)"
        raise DataError(f"{path}: {VALUE}: got {values.null_count} nulls, allowed: {allowed}")
