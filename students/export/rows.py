"""From rows of Parquet to the arguments of a program, and from training batches to such rows. Names what is wrong.

Every row is scored for itself, with a user and a history of its own. Beside the features' columns, a program with a
history reads lists: `history_items`, and where events are read one by one `history_domains` (places in the signature's
domains), `history_times` and `history_label_<task>` (1, 0, -1 where not known), with `timestamp` of the row. What a
program reads of the teacher is in `students.export.representations`.

Shape letters: B rows, F features, T events, K tasks of the data set.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from distill.batch import Batch
from distill.errors import DataError, nearest
from students.export import representations
from students.export.columns import array_of_lists, finite, lists, numbers, refuse_late, refuse_outside
from students.export.signature import ServedFeature, Signature

ITEMS = "history_items"


def columns(signature: Signature) -> list[str]:
    """Columns that a program needs."""
    names = [*(one.name for one in signature.features), *signature.dense]
    if signature.history_length:
        names += [ITEMS]
    if "history_times" in signature.input_names:
        labels = [f"history_label_{task}" for task in signature.history_tasks]
        names += ["history_domains", "history_times", *labels]
    for one in signature.vectors:
        names += representations.columns_of(one)
    return [*names, "timestamp"] if "timestamp" in signature.input_names else names


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
            offsets, ids = _lists(table, one.name)
            refuse_outside(one.name, ids, 0, one.size)
            found |= {f"values_{one.name}": ids, f"offsets_{one.name}": offsets}
    if signature.dense:
        found["dense"] = np.stack([_dense(table, name) for name in signature.dense], axis=1)
    if "timestamp" in signature.input_names:
        found["timestamp"] = numbers(table["timestamp"], "timestamp", np.int64)
    if signature.history_length:
        found |= _history(signature, table, found.get("timestamp"))
    found |= representations.inputs_of(signature, table, found.get("timestamp"))
    return {name: found[name] for name in signature.input_names}


def table_of(batch: Batch, signature: Signature) -> pa.Table:
    """The rows of a training batch as `inputs_of` reads them."""
    found: dict[str, pa.Array] = {"example_id": pa.array(batch.example_id.numpy())}
    for one in signature.features:
        jagged = batch.sparse[one.name]
        ids = jagged.values().numpy()
        found[one.name] = array_of_lists(jagged.offsets().numpy(), ids) if one.multi else pa.array(ids)
    for place, name in enumerate(signature.dense):
        found[name] = pa.array(batch.dense[:, place].numpy())
    if signature.history_length:
        history = batch.history
        assert history is not None
        offsets = history.offsets.numpy()
        events = {ITEMS: history.item, "history_domains": history.domain, "history_times": history.time}
        for k, task in enumerate(signature.history_tasks):
            events[f"history_label_{task}"] = history.labels[:, k]
        found |= {name: array_of_lists(offsets, values.numpy()) for name, values in events.items()}
    found |= representations.table_of(batch, signature)
    found["timestamp"] = pa.array(batch.timestamp.numpy())
    return pa.table({name: found[name] for name in ["example_id", *columns(signature)]})


def as_tensors(inputs: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """The inputs in their order."""
    return [torch.from_numpy(np.ascontiguousarray(values)) for values in inputs.values()]


def _history(signature: Signature, table: pa.Table, timestamp: np.ndarray | None) -> dict[str, np.ndarray]:
    offsets, items = _lists(table, ITEMS)
    size = next(one.size for one in signature.features if one.name == signature.item_feature)
    refuse_outside(ITEMS, items, 0, size)
    longest = int(np.diff(offsets).max())
    if longest > signature.history_length:
        raise DataError(
            f"{ITEMS}: got {longest} events in a row, allowed: at most {signature.history_length}, the last ones"
        )
    found = {ITEMS: items, "history_offsets": offsets}
    if "history_times" not in signature.input_names:
        return found
    assert timestamp is not None
    tasks = [f"history_label_{task}" for task in signature.history_tasks]
    events = {}
    for name in ("history_domains", "history_times", *tasks):
        others, events[name] = _lists(table, name)
        if not np.array_equal(others, offsets):
            raise DataError(f"{name}: got lists of other lengths than {ITEMS}, allowed: one value per event")
    refuse_outside("history_domains", events["history_domains"], 0, len(signature.domains))
    refuse_late("history_times", events["history_times"], offsets, timestamp)
    for name in tasks:
        refuse_outside(name, events[name], -1, 2)
    return found | {
        "history_domains": events["history_domains"],
        "history_times": events["history_times"],
        "history_labels": np.stack([events[name] for name in tasks], axis=1).astype(np.int8),
        "events": np.arange(len(items)),
        "event_offsets": offsets,
    }


def _ids(table: pa.Table, feature: ServedFeature) -> np.ndarray:
    ids = numbers(table[feature.name], feature.name, np.int64)
    refuse_outside(feature.name, ids, 0, feature.size)
    return ids


def _dense(table: pa.Table, name: str) -> np.ndarray:
    return finite(numbers(table[name], name, np.float32), name)


def _lists(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int64 [B + 1] and whole numbers of a column of lists."""
    offsets, values = lists(table, name)
    return offsets, numbers(values, name, np.int64)
