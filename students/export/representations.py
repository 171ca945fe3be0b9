"""The teacher's representations as a served student reads them: whoever asks hands them over.

A student of the channel `repr` reads vectors that the teacher stored of the user's last examples, and one of the item;
one of the channel `current` reads the teacher's vector of the row itself. In rows they are `past_user_vectors` and
`past_item_vectors` (lists of vectors, oldest first) with `past_user_times` and `past_item_times` (ms, before the row's
`timestamp`), and `teacher_vector` (null where the teacher says nothing).

Shape letters: B candidates, R width of a vector, H stored vectors of all users, Q of every candidate's user together, I
of the candidates' items, N vectors of a column.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from torch import Tensor

from distill.batch import Batch, Past, TeacherSignal
from distill.errors import DataError
from students.export.columns import array_of_lists, lists, numbers, refuse_late, width_checked
from students.export.signature import PAST_ITEM, PAST_USER, TEACHER, ServedVectors, Signature


def columns_of(vectors: ServedVectors) -> list[str]:
    """Columns that hold such vectors."""
    return [TEACHER] if vectors.name == TEACHER else [f"{vectors.name}_vectors", f"{vectors.name}_times"]


def inputs_of(signature: Signature, table: pa.Table, timestamp: np.ndarray | None) -> dict[str, np.ndarray]:
    """The inputs that are the teacher's vectors.

    Args:
        signature: of the program.
        table: with the columns.
        timestamp: int64 [B], of the rows; read where there are stored vectors.

    Raises:
        DataError: what is wrong with a column, by its name.
    """
    found: dict[str, np.ndarray] = {}
    for one in signature.vectors:
        if one.name == TEACHER:
            found |= _own(table, one)
        else:
            assert timestamp is not None
            found |= _stored(table, one, timestamp)
    return found


def table_of(batch: Batch, signature: Signature) -> dict[str, pa.Array]:
    """The columns of a training batch."""
    found: dict[str, pa.Array] = {}
    for one in signature.vectors:
        if one.name == TEACHER:
            signal = batch.teacher
            assert signal is not None and signal.representation is not None
            rows, known = signal.representation[:, : one.width].tolist(), signal.mask.tolist()
            values = [row if said else None for row, said in zip(rows, known, strict=True)]
            found[TEACHER] = pa.array(values, pa.list_(pa.float32()))
            continue
        past = batch.past[one.name.removeprefix("past_")]
        offsets, width = past.offsets.numpy(), one.width
        inner = array_of_lists(
            np.arange(len(past.values) + 1) * width, past.values[:, :width].flatten().numpy()
        )
        found[f"{one.name}_vectors"] = array_of_lists(offsets, inner)
        found[f"{one.name}_times"] = array_of_lists(offsets, past.time.numpy())
    return found


def past_of(inputs: Mapping[str, Tensor]) -> dict[str, Past]:
    """The stored vectors as a batch carries them; a user's once for each of its candidates."""
    found = {}
    if f"{PAST_USER}_vectors" in inputs:
        vectors, times, offsets = _named(inputs, PAST_USER)
        places = inputs[f"{PAST_USER}_places"]
        found["user"] = Past(offsets, vectors.index_select(0, places), times.index_select(0, places))
    if f"{PAST_ITEM}_vectors" in inputs:
        vectors, times, offsets = _named(inputs, PAST_ITEM)
        found["item"] = Past(offsets, vectors, times)
    return found


def signal_of(inputs: Mapping[str, Tensor]) -> TeacherSignal | None:
    """The teacher's vectors of the rows as a batch carries them, without logits."""
    if TEACHER not in inputs:
        return None
    vectors, known = inputs[TEACHER], inputs[f"{TEACHER}_known"]
    return TeacherSignal(vectors[:, :0], known != 0, vectors[:, 0], vectors)


def _named(inputs: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor, Tensor]:
    return inputs[f"{name}_vectors"], inputs[f"{name}_times"], inputs[f"{name}_offsets"]


def _stored(table: pa.Table, one: ServedVectors, timestamp: np.ndarray) -> dict[str, np.ndarray]:
    name = f"{one.name}_vectors"
    offsets, inner = lists(table, name)
    vectors = width_checked(inner, name, one.width)
    longest = int(np.diff(offsets).max())
    if longest > one.length:
        raise DataError(
            f"{name}: got {longest} vectors in a row, allowed: at most {one.length}, the last ones"
        )
    times_name = f"{one.name}_times"
    others, column = lists(table, times_name)
    if not np.array_equal(others, offsets):
        raise DataError(f"{times_name}: got lists of other lengths than {name}, allowed: one time per vector")
    times = numbers(column, times_name, np.int64)
    refuse_late(times_name, times, offsets, timestamp)
    found = {name: vectors, times_name: times, f"{one.name}_offsets": offsets}
    return found | ({f"{PAST_USER}_places": np.arange(len(times))} if one.name == PAST_USER else {})


def _own(table: pa.Table, one: ServedVectors) -> dict[str, np.ndarray]:
    column = table[TEACHER].combine_chunks()
    known = ~np.asarray(column.is_null())
    vectors = np.zeros((table.num_rows, one.width), np.float32)
    vectors[known] = width_checked(column.drop_null(), TEACHER, one.width)
    return {TEACHER: vectors, f"{TEACHER}_known": known.astype(np.int8)}
