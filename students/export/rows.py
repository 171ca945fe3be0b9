"""From rows of Parquet to the arguments of a program, and from training batches to such rows. Names what is wrong.

Every row is scored for itself, with a user and a history of its own. Beside the features' columns, a program with a
history reads lists: `history_items`, and where events are read one by one `history_domains` (places in the signature's
domains), `history_times` and `history_label_<task>` (1, 0, -1 where not known), with `timestamp` of the row.

Shape letters: B rows, F features, T events, K tasks of the data set.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from distill.batch import Batch
from distill.errors import DataError, nearest
from students.export.signature import ServedFeature, Signature

ITEMS = "history_items"


def columns(signature: Signature) -> list[str]:
    """Columns that a program needs."""
    names = [*(one.name for one in signature.features), *signature.dense]
    if signature.history_length:
        names += [ITEMS]
    if "history_times" in signature.input_names:
        labels = [f"history_label_{task}" for task in signature.history_tasks]
        names += ["history_domains", "history_times", *labels, "timestamp"]
    return names


def inputs_of(signature: Signature, table: pa.Table) -> dict[str, np.ndarray]:
    """The inputs of a call that scores every row.

    Args:
        signature: of the program.
        table: at least `columns`; at least one row.

    Raises:
        DataError: a column is missing, or holds what the program cannot take; the message names it.
    """
    for name in columns(signature):
        if name not in table.column_names:
            raise DataError(f"column '{name}' is missing. {nearest(name, table.column_names)}".rstrip())
    if not table.num_rows:
        raise DataError("got no rows, allowed: at least one")
    found = {"user": np.arange(table.num_rows)}
    for of_user, name in ((True, "user_values"), (False, "values")):
        single = [_ids(table, one) for one in signature.single(of_user)]
        if single:
            found[name] = np.stack(single, axis=1)
    for one in signature.features:
        if one.multi:
            offsets, ids = _lists(table, one.name, np.int64)
            _refuse_outside(one.name, ids, 0, one.size)
            found |= {f"values_{one.name}": ids, f"offsets_{one.name}": offsets}
    if signature.dense:
        found["dense"] = np.stack([_dense(table, name) for name in signature.dense], axis=1)
    if signature.history_length:
        found |= _history(signature, table)
    return {name: found[name] for name in signature.input_names}


def table_of(batch: Batch, signature: Signature) -> pa.Table:
    """The rows of a training batch as `inputs_of` reads them."""
    found: dict[str, pa.Array] = {"example_id": pa.array(batch.example_id.numpy())}
    for one in signature.features:
        jagged = batch.sparse[one.name]
        ids = jagged.values().numpy()
        found[one.name] = _list_array(jagged.offsets().numpy(), ids) if one.multi else pa.array(ids)
    for place, name in enumerate(signature.dense):
        found[name] = pa.array(batch.dense[:, place].numpy())
    if signature.history_length:
        history = batch.history
        assert history is not None
        offsets = history.offsets.numpy()
        lists = {ITEMS: history.item, "history_domains": history.domain, "history_times": history.time}
        for k, task in enumerate(signature.history_tasks):
            lists[f"history_label_{task}"] = history.labels[:, k]
        found |= {name: _list_array(offsets, values.numpy()) for name, values in lists.items()}
        found["timestamp"] = pa.array(batch.timestamp.numpy())
    return pa.table({name: found[name] for name in ["example_id", *columns(signature)]})


def as_tensors(inputs: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """The inputs in their order."""
    return [torch.from_numpy(np.ascontiguousarray(values)) for values in inputs.values()]


def _history(signature: Signature, table: pa.Table) -> dict[str, np.ndarray]:
    offsets, items = _lists(table, ITEMS, np.int64)
    size = next(one.size for one in signature.features if one.name == signature.item_feature)
    _refuse_outside(ITEMS, items, 0, size)
    longest = int(np.diff(offsets).max())
    if longest > signature.history_length:
        raise DataError(
            f"{ITEMS}: got {longest} events in a row, allowed: at most {signature.history_length}, the last ones"
        )
    found = {ITEMS: items, "history_offsets": offsets}
    if "history_times" not in signature.input_names:
        return found
    wanted = ["history_domains", "history_times", *(f"history_label_{k}" for k in signature.history_tasks)]
    lists = {}
    for name in wanted:
        others, lists[name] = _lists(table, name, np.int64)
        if not np.array_equal(others, offsets):
            raise DataError(f"{name}: got lists of other lengths than {ITEMS}, allowed: one value per event")
    _refuse_outside("history_domains", lists["history_domains"], 0, len(signature.domains))
    labels = [lists[name] for name in wanted[2:]]
    for name, values in zip(wanted[2:], labels, strict=True):
        _refuse_outside(name, values, -1, 2)
    return found | {
        "history_domains": lists["history_domains"],
        "history_times": lists["history_times"],
        "history_labels": np.stack(labels, axis=1).astype(np.int8),
        "timestamp": _numbers(table["timestamp"], "timestamp", np.int64),
        "events": np.arange(len(items)),
        "event_offsets": offsets,
    }


def _ids(table: pa.Table, feature: ServedFeature) -> np.ndarray:
    ids = _numbers(table[feature.name], feature.name, np.int64)
    _refuse_outside(feature.name, ids, 0, feature.size)
    return ids


def _dense(table: pa.Table, name: str) -> np.ndarray:
    values = _numbers(table[name], name, np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: got {values[~np.isfinite(values)][0]}, allowed: finite numbers")
    return values


def _lists(table: pa.Table, name: str, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int64 [B + 1] and values of a column of lists."""
    column = table[name].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise DataError(f"{name}: got {column.type}, allowed: a list of integers for every row")
    if column.null_count:
        raise DataError(
            f"{name}: got {column.null_count} nulls, allowed: lists, empty where there is nothing"
        )
    offsets = column.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], _numbers(column.flatten(), name, dtype)


def _numbers(column: pa.Array | pa.ChunkedArray, name: str, dtype: type) -> np.ndarray:
    whole = dtype is np.int64
    allowed = "integers" if whole else "numbers"
    fits = pa.types.is_integer(column.type) or (not whole and pa.types.is_floating(column.type))
    if not fits:
        raise DataError(f"{name}: got {column.type}, allowed: {allowed}")
    if column.null_count:
        raise DataError(f"{name}: got {column.null_count} nulls, allowed: {allowed} in every row")
    return (
        column.to_numpy(zero_copy_only=False).astype(dtype)
        if isinstance(column, pa.Array)
        else (column.to_numpy().astype(dtype))
    )


def _refuse_outside(name: str, values: np.ndarray, low: int, end: int) -> None:
    bad = values[(values < low) | (values >= end)]
    if len(bad):
        raise DataError(f"{name}: got {bad[0]} ({len(bad)} values), allowed: {low} to {end - 1}")


def _list_array(offsets: np.ndarray, values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), pa.array(values))
