"""Columns of a user's files as numpy, checked. Free of torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.errors import DataError, nearest
from distill.schema import FeatureSchema

VECTOR = "vector"


def domains_by_index(table: pa.Table, schema: FeatureSchema, path: Path) -> pa.Table:
    """The table with surfaces' places in the schema instead of their names; DataError for an unknown name."""
    column = table["domain"]
    if pa.types.is_dictionary(column.type):  # what pandas makes of a categorical column
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return table
    index = pc.index_in(column, value_set=pa.array(schema.domains, column.type))
    if index.null_count:
        name = column.filter(index.is_null())[0].as_py()
        raise DataError(
            f"{path}: domain: got unknown surface '{name}', allowed: {', '.join(schema.domains)}. "
            f"{nearest(name, schema.domains)}".rstrip()
        )
    return table.set_column(table.column_names.index("domain"), "domain", index)


def integers(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """A column as int64.

    Raises:
        DataError: other values than integers, or nulls.
    """
    column = table[name]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(
            f"{path}: {name}: got {column.type} with {column.null_count} nulls, allowed: integers, no null"
        )
    return column.to_numpy().astype(np.int64)


def vectors(table: pa.Table, item: np.ndarray, width: int, path: Path) -> np.ndarray:
    """The column `vector`, lists of numbers, as floats.

    Args:
        table: N rows of a file.
        item: int64 [N], whose vectors they are, for messages.
        width: M.
        path: the file, for messages.

    Returns:
        [N, M], of the type in the file.

    Raises:
        DataError: no lists of numbers, a list that is missing, of another length, or with a null in it.
    """
    column = table[VECTOR]
    if not _holds_numbers(column.type):
        raise DataError(f"{path}: {VECTOR}: got {column.type}, allowed: lists of {width} numbers")
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    if (lengths != width).any():
        row = int(np.flatnonzero(lengths != width)[0])
        got = "null" if lengths[row] < 0 else f"{lengths[row]} numbers"
        raise DataError(
            f"{path}: {VECTOR}: got {got} for item {item[row]}, allowed: {width} numbers, the width in the schema. "
            "Leave out the row of an item without a vector."
        )
    flat = pc.list_flatten(column)
    if flat.null_count:
        row = int(np.flatnonzero(flat.is_null().to_numpy())[0]) // width
        raise DataError(f"{path}: {VECTOR}: got a null in the vector of item {item[row]}, allowed: numbers")
    return flat.to_numpy().reshape(len(item), width)


def _holds_numbers(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
