"""Columns of Parquet as numpy, checked: what is wrong is named.

Shape letters: B rows, N values of all lists of a column.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from distill.errors import DataError
from distill.vocabulary import is_list, list_parts


def numbers(column: pa.Array | pa.ChunkedArray, name: str, dtype: type) -> np.ndarray:
    """Values of a column, of a type of numpy: np.int64 allows integers, others any number.

    Raises:
        DataError: other values, or nulls.
    """
    whole = dtype is np.int64
    allowed = "integers" if whole else "numbers"
    fits = pa.types.is_integer(column.type) or (not whole and pa.types.is_floating(column.type))
    if not fits:
        raise DataError(f"{name}: got {column.type}, allowed: {allowed}")
    if column.null_count:
        raise DataError(f"{name}: got {column.null_count} nulls, allowed: {allowed} in every row")
    return np.asarray(column).astype(dtype)


def lists(table: pa.Table, name: str) -> tuple[np.ndarray, pa.Array]:
    """A column of lists: where each row's begin, int64 [B + 1], and all their values [N].

    Raises:
        DataError: no lists, or nulls in the place of lists.
    """
    column = table[name].combine_chunks()
    if not is_list(column.type):
        raise DataError(f"{name}: got {column.type}, allowed: a list for every row")
    return list_parts(column, name)


def width_checked(column: pa.Array, name: str, width: int) -> np.ndarray:
    """Vectors, float32 [N, width], of an array of N lists.

    Raises:
        DataError: lists of another length, nulls, numbers that are not finite.
    """
    if not is_list(column.type) or column.null_count:
        raise DataError(
            f"{name}: got {column.type} with {column.null_count} nulls, allowed: lists of {width} numbers"
        )
    lengths = np.asarray(column.value_lengths())
    if (lengths != width).any():
        raise DataError(
            f"{name}: got a vector of {lengths[lengths != width][0]} numbers, allowed: {width} numbers"
        )
    return finite(numbers(column.flatten(), name, np.float32), name).reshape(-1, width)


def finite(values: np.ndarray, name: str) -> np.ndarray:
    """The same values; DataError where one is not finite."""
    bad = values[~np.isfinite(values)]
    if len(bad):
        raise DataError(f"{name}: got {bad[0]}, allowed: finite numbers")
    return values


def refuse_outside(name: str, values: np.ndarray, low: int, end: int) -> None:
    """Refuse values below `low` or from `end` on."""
    bad = values[(values < low) | (values >= end)]
    if len(bad):
        raise DataError(f"{name}: got {bad[0]} ({len(bad)} values), allowed: {low} to {end - 1}")


def refuse_late(name: str, times: np.ndarray, offsets: np.ndarray, timestamp: np.ndarray) -> None:
    """Refuse times that are not before their row's.

    Args:
        name: of the column.
        times: int64 [N], ms.
        offsets: int64 [B + 1], where each row's begin.
        timestamp: int64 [B], ms.
    """
    late = times[times >= np.repeat(timestamp, np.diff(offsets))]
    if len(late):
        raise DataError(
            f"{name}: got {late[0]} ({len(late)} values), allowed: times before the row's timestamp"
        )


def array_of_lists(offsets: np.ndarray, values: np.ndarray | pa.Array) -> pa.ListArray:
    """A column of lists from where each row's begin, and all values."""
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), pa.array(values))
