"""Rows of the prepared form between Arrow and numpy: column types, decoding, the checks of the data contract.

Free of torch. Every check is vectorised and runs on a whole table, which is a row group or a piece of a day.

Shape letters: R rows, S single-valued sparse features, N dense features, K tasks of the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.errors import DataError, nearest
from distill.schema import ID_COLUMNS, FeatureSchema, SparseFeature

UNKNOWN = -1
UNTIMED = np.iinfo(np.int64).min
"""Stands for a null in `matures_<task>` while it is decoded."""


@dataclass(frozen=True)
class Rows:
    """Decoded rows, column by column.

    Attributes:
        example_id, user_id, timestamp, domain: int64 [R].
        names: names of the single-valued sparse features, in the order of `single`.
        single: int64 [S, R].
        multi: multi-valued features by name: offsets int64 [R + 1] and ids int64 [offsets[-1]].
        dense: float32 [R, N].
        labels: int8 [R, K], final outcomes, -1 where unknown.
        matures: int64 [R, K] ms, from when on a label may be used: the later of its own time and its window's
            end.
        seen: int64 [R, K] ms, when an outcome of 1 became known: its own time, the window's end where it has none.
    """

    example_id: np.ndarray
    user_id: np.ndarray
    timestamp: np.ndarray
    domain: np.ndarray
    names: tuple[str, ...]
    single: np.ndarray
    multi: dict[str, tuple[np.ndarray, np.ndarray]]
    dense: np.ndarray
    labels: np.ndarray
    matures: np.ndarray
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.example_id)


def columns_for(schema: FeatureSchema, features: Sequence[str], dense: Sequence[str]) -> list[str]:
    """Required columns for these inputs; `matures_<task>` columns are optional and not among them."""
    labels = [f"label_{task}" for task in schema.tasks]
    return list(dict.fromkeys([*ID_COLUMNS, *features, *dense, *labels]))


def maturity_columns(schema: FeatureSchema) -> list[str]:
    """Names of the optional columns."""
    return [f"matures_{task}" for task in schema.tasks]


def check_columns(present: Sequence[str], schema: FeatureSchema, where: str, needed: Sequence[str]) -> None:
    """Every needed column is there.

    Raises:
        DataError: names the missing column, and the nearest one that is there.
    """
    for column in needed:
        if column not in present:
            raise DataError(f"{where}: column '{column}' is missing. {nearest(column, present)}".rstrip())


def conform(table: pa.Table, schema: FeatureSchema, where: str) -> pa.Table:
    """The same rows with exactly the contract's columns, in its order and types.

    Args:
        table: columns in any order, of any type that casts without loss; strings are refused.
        schema: the data set's schema.
        where: what to call the table in messages.

    Raises:
        DataError: a column is missing, unknown, of a type that does not fit, or has nulls where none may be.
    """
    needed = columns_for(schema, list(schema.sparse), schema.dense)
    optional = maturity_columns(schema)
    check_columns(table.column_names, schema, where, needed)
    for column in table.column_names:
        if column not in needed and column not in optional:
            hint = nearest(column, [*needed, *optional])
            raise DataError(
                f"{where}: column '{column}' is not in the schema, allowed: {', '.join(needed)}. {hint}"
            )
    names = needed + [column for column in optional if column in table.column_names]
    return pa.table({name: _cast(table[name], name, column_type(name, schema), where) for name in names})


def check_types(found: pa.Schema, schema: FeatureSchema, where: str) -> None:
    """The contract's columns that are there have the contract's types.

    Raises:
        DataError: names the first column that has not.
    """
    names = [*columns_for(schema, list(schema.sparse), schema.dense), *maturity_columns(schema)]
    for name in names:
        if name in found.names and found.field(name).type != column_type(name, schema):
            got, allowed = found.field(name).type, column_type(name, schema)
            raise DataError(
                f"{where}: column '{name}': got type {got}, allowed: {allowed}. Prepare the data set again."
            )


def column_type(name: str, schema: FeatureSchema) -> pa.DataType:
    """Type of a column in the prepared form."""
    if name == "domain":
        return pa.int32()
    if name in schema.sparse and schema.sparse[name].multi:
        return pa.list_(pa.int64())
    if name in schema.dense:
        return pa.float32()
    return pa.int8() if name.startswith("label_") and name not in schema.sparse else pa.int64()


def _cast(column: pa.ChunkedArray, name: str, target: pa.DataType, where: str) -> pa.ChunkedArray:
    nullable = name.startswith(("label_", "matures_"))
    if nullable and pa.types.is_floating(column.type):
        # What pandas makes of whole numbers some of which are missing.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    have, element = column.type, column.type
    if pa.types.is_list(target) and (pa.types.is_list(have) or pa.types.is_large_list(have)):
        element = have.value_type
    allowed = pa.types.is_integer(element) or pa.types.is_boolean(element)
    if nullable or pa.types.is_floating(target):
        allowed = allowed or pa.types.is_floating(element)
    if not allowed or (pa.types.is_list(target) and element is have):
        raise DataError(f"{where}: column '{name}': got type {have}, allowed: {target}. Convert it before.")
    if column.null_count and not nullable:
        raise DataError(
            f"{where}: column '{name}': got {column.null_count} nulls, allowed: none. Give missing an id."
        )
    try:
        return column if have == target else column.cast(target)
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: column '{name}': values do not fit {target}: {error}") from error


def decode(
    table: pa.Table, schema: FeatureSchema, features: Sequence[str], dense: Sequence[str], where: str
) -> Rows:
    """Columns to numpy, each copied once: nothing refers to Arrow's memory afterwards.

    Args:
        table: a row group or a piece of a day with the columns of `columns_for`, and `matures_<task>` if any.
        schema: the data set's schema.
        features: sparse features wanted.
        dense: dense features wanted.
        where: what to call the table in messages.

    Raises:
        DataError: a label outside {0, 1, null}.
    """
    n = table.num_rows
    single = [name for name in features if not schema.sparse[name].multi]
    sparse_matrix = np.empty((len(single), n), np.int64)
    for row, name in enumerate(single):
        sparse_matrix[row] = _numpy(table[name])
    dense_matrix = np.empty((n, len(dense)), np.float32)
    for column, name in enumerate(dense):
        dense_matrix[:, column] = _numpy(table[name])
    ids = {name: _numpy(table[name]).astype(np.int64) for name in ID_COLUMNS}
    matures, seen = _times(table, schema, ids["timestamp"])
    return Rows(
        **ids,
        names=tuple(single),
        single=sparse_matrix,
        multi={name: _jagged(table[name]) for name in features if schema.sparse[name].multi},
        dense=dense_matrix,
        labels=_labels(table, schema, where),
        matures=matures,
        seen=seen,
    )


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return column.chunk(0).to_numpy(zero_copy_only=False) if column.num_chunks == 1 else column.to_numpy()


def _jagged(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], values.astype(np.int64)


def _labels(table: pa.Table, schema: FeatureSchema, where: str) -> np.ndarray:
    labels = np.empty((table.num_rows, len(schema.tasks)), np.int8)
    for k, task in enumerate(schema.tasks):
        column = table[f"label_{task}"]
        labels[:, k] = _numpy(pc.fill_null(column, UNKNOWN) if column.null_count else column)
        wrong = (labels[:, k] < UNKNOWN) | (labels[:, k] > 1)
        if wrong.any() or np.count_nonzero(labels[:, k] == UNKNOWN) != column.null_count:
            wrong |= labels[:, k] == UNKNOWN
            row = int(np.flatnonzero(wrong & ~_numpy(column.is_null()))[0])
            raise DataError(
                f"{where}: label_{task}: got {labels[row, k]} at example_id {table['example_id'][row]}, "
                "allowed: 0, 1 or null (not known)"
            )
    return labels


def _times(table: pa.Table, schema: FeatureSchema, timestamp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`matures` and `seen` of `Rows`."""
    matures, seen = np.empty((2, table.num_rows, len(schema.tasks)), np.int64)
    for k, task in enumerate(schema.tasks.values()):
        # A label without a time of its own is known when its window closes.
        matures[:, k] = seen[:, k] = timestamp + task.window_ms
        name = f"matures_{task.name}"
        if name in table.column_names:
            column = table[name]
            own = _numpy(pc.fill_null(column, UNTIMED) if column.null_count else column)
            np.copyto(seen[:, k], own, where=own != UNTIMED)
            matures[:, k] = np.maximum(matures[:, k], own)
    return matures, seen


def usable(rows: Rows, now: int) -> np.ndarray:
    """Which labels training may use at a time.

    Args:
        rows: decoded rows.
        now: ms, the end of the day that is trained on.

    Returns:
        bool [R, K]: known, and matured by then.
    """
    return (rows.labels != UNKNOWN) & (rows.matures <= now)


def open_windows(rows: Rows, schema: FeatureSchema, now: int) -> np.ndarray:
    """Of which labels the window is still open at a time, whatever is known of them by then.

    Args:
        rows: decoded rows.
        schema: the data set's schema.
        now: ms.

    Returns:
        bool [R, K].
    """
    windows = np.array([task.window_ms for task in schema.tasks.values()], np.int64)
    return rows.timestamp[:, None] + windows > now


def check_rows(rows: Rows, schema: FeatureSchema, dense: Sequence[str], where: str) -> None:
    """The data contract of values: ids inside tables, finite dense features, known surfaces, rows in order.

    Raises:
        DataError: the first breach, naming feature, value, example_id and what is allowed.
    """
    domains = SparseFeature("domain", len(schema.domains))
    surfaces = f"the schema's {len(schema.domains)} surfaces: {', '.join(schema.domains)}"
    _check_range(
        rows.domain, domains, rows.example_id, where, f"unknown surface, allowed: an index into {surfaces}"
    )
    for name, ids in zip(rows.names, rows.single, strict=True):
        _check_range(ids, schema.sparse[name], rows.example_id, where)
    for name, (offsets, ids) in rows.multi.items():
        owners = np.repeat(rows.example_id, np.diff(offsets))
        _check_range(ids, schema.sparse[name], owners, where)
    _check_finite(rows, dense, where)
    check_order(rows, where)


def _check_range(
    ids: np.ndarray, feature: SparseFeature, owners: np.ndarray, where: str, allowed: str = ""
) -> None:
    if not len(ids) or (ids.min() >= 0 and ids.max() < feature.size):
        return
    first = int(np.flatnonzero((ids < 0) | (ids >= feature.size))[0])
    allowed = allowed or f"outside its table, allowed: 0 to {feature.size - 1} (size {feature.size})"
    raise DataError(f"{where}: {feature.name}: got id {ids[first]} at example_id {owners[first]}: {allowed}")


def _check_finite(rows: Rows, dense: Sequence[str], where: str) -> None:
    # One pass: a NaN or infinity anywhere makes the sum not finite, and float64 holds any sum of float32.
    if np.isfinite(rows.dense.sum(dtype=np.float64)):
        return
    row, column = np.argwhere(~np.isfinite(rows.dense))[0]
    raise DataError(
        f"{where}: {dense[column]}: got {rows.dense[row, column]} at example_id {rows.example_id[row]}, "
        "allowed: finite numbers. Replace missing values before, and add a feature that says so."
    )


def check_order(rows: Rows, where: str) -> None:
    """Rows rise by (timestamp, example_id), and no example_id stands twice.

    Raises:
        DataError: names the first pair out of order, or the repeated example_id.
    """
    ids = rows.example_id
    if not (ids[1:] > ids[:-1]).all():
        ids = np.sort(ids)
        twice = ids[1:][ids[1:] == ids[:-1]]
        if len(twice):
            raise DataError(f"{where}: example_id: got {twice[0]} twice, allowed: each once")
    step = np.diff(rows.timestamp)
    tie = step == 0
    backwards = (step < 0) | (tie & (np.diff(rows.example_id) < 0))
    if not backwards.any():
        return
    row = int(np.flatnonzero(backwards)[0])
    here, there = rows.example_id[row], rows.example_id[row + 1]
    raise DataError(
        f"{where}: rows are not sorted by (timestamp, example_id): {there} at {rows.timestamp[row + 1]} "
        f"follows {here} at {rows.timestamp[row]}. Sort each day before."
    )
