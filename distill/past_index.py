"""Vectors by key and time: written once, memory-mapped, asked for the last ones before a time.

Four files a folder: `key`, `offsets` (where each key's vectors begin), `time`, `codes`. The look-up is the history's
own (`distill.history`), so what "before" means stands there alone.

Shape letters: P vectors, N of one part, U keys, R width of a vector, B queries, L most vectors asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distill.batch import Past
from distill.errors import LogError
from distill.files import atomic_path
from distill.history import last_before, positions, take
from distill.sources.npy import create_npy

DTYPES: dict[str, np.dtype] = {"int8": np.dtype(np.int8), "fp16": np.dtype(np.float16)}
"""Numbers on disk by codec."""

Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Keys int64 [N], times int64 [N] and vectors float32 [N, R]."""

_CHUNK = 1 << 16
_STEPS = 127
_TIME_BYTES = 8


@dataclass(frozen=True)
class IndexFacts:
    """What an index holds.

    Attributes:
        keys: U.
        vectors: P.
        width: R.
        codec: int8 or fp16.
        step: what one unit of a stored number is worth: of int8 the largest number / 127, one for the whole index;
            1 of fp16.
    """

    keys: int
    vectors: int
    width: int
    codec: str
    step: float

    @property
    def bytes_per_key(self) -> float:
        """Mean bytes of a key's vectors and their times; 0 where there are no keys."""
        of_one = self.width * DTYPES[self.codec].itemsize + _TIME_BYTES
        return self.vectors * of_one / max(self.keys, 1)


def write_index(folder: Path, parts: Iterable[Part], width: int, codec: str, largest: float) -> IndexFacts:
    """Write an index. Vectors of one key and time keep the order in which they come.

    Memory: about 48 bytes a vector and one part; codes wait in a scratch file.

    Args:
        folder: to be made.
        parts: the vectors, in any order.
        width: R.
        codec: int8, to the nearest of 127 steps between 0 and the largest; or fp16.
        largest: no number is further from 0.

    Raises:
        UserError: the disk is full.
    """
    folder.mkdir(parents=True)
    dtype, step = DTYPES[codec], largest / _STEPS if codec == "int8" else 1.0
    scratch = folder / "codes.tmp"
    keys, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with atomic_path(scratch) as temporary, temporary.open("wb") as file:
        for key, time, values in parts:
            assert values.shape == (len(key), width), (
                f"vectors: got {values.shape}, allowed: {len(key)}, {width}"
            )
            keys.append(key)
            times.append(time)
            scaled = np.rint(values / np.float32(step)) if codec == "int8" else values
            file.write(scaled.astype(dtype).tobytes())
    key, time = np.concatenate(keys), np.concatenate(times)
    order = np.lexsort((time, key))
    unique, first = np.unique(key[order], return_index=True)
    _save(folder / "key.npy", unique)
    _save(folder / "offsets.npy", np.append(first, len(key)).astype(np.int64))
    _save(folder / "time.npy", time[order])
    _gather(scratch, folder / "codes.npy", order, width, dtype)
    scratch.unlink()
    return IndexFacts(len(unique), len(key), width, codec, step)


class PastIndex:
    """Reads what `write_index` wrote.

    Args:
        folder: the index's folder.
        facts: what it must hold.

    Raises:
        LogError: a file is missing, cut off, or of another shape.
    """

    def __init__(self, folder: Path, facts: IndexFacts):
        self.folder, self.facts = folder, facts
        self._key = self._open("key", (facts.keys,), np.dtype(np.int64))
        self._offsets = self._open("offsets", (facts.keys + 1,), np.dtype(np.int64))
        self._time = self._open("time", (facts.vectors,), np.dtype(np.int64))
        self._codes = self._open("codes", (facts.vectors, facts.width), DTYPES[facts.codec])

    def last(self, key: np.ndarray, now: np.ndarray, limit: int) -> Past:
        """The last vectors of these keys strictly before these times, oldest first.

        Args:
            key: int64 [B]; an unknown key has no vectors.
            now: int64 [B], ms.
            limit: L, at least 1.
        """
        start, stop = last_before(self._key, self._offsets, self._time, key, now, limit)
        offsets, index = positions(start, stop)
        values = torch.from_numpy(take(self._codes, index)).float()  # torch widens faster than numpy
        if self.facts.step != 1.0:
            values.mul_(self.facts.step)
        return Past(torch.from_numpy(offsets), values, torch.from_numpy(take(self._time, index)))

    def _open(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        advice = "The teacher's past is damaged. Remove its folder, and `distill run` makes it anew."
        try:
            # A plain view of the mapped file: indexing np.memmap itself costs more than the look-up.
            found = np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise LogError(f"{path}: not readable ({error}). {advice}") from error
        if found.shape != shape or found.dtype != dtype:
            raise LogError(
                f"{path}: got {found.dtype} {list(found.shape)}, allowed: {dtype} {list(shape)}. {advice}"
            )
        return found


def _gather(scratch: Path, path: Path, order: np.ndarray, width: int, dtype: np.dtype) -> None:
    """Rows of the scratch file in this order."""
    shape = (len(order), width)
    rows = np.memmap(scratch, dtype, mode="r", shape=shape) if len(order) else np.empty(shape, dtype)
    with atomic_path(path) as temporary, create_npy(temporary, shape, dtype) as file:
        for start in range(0, len(order), _CHUNK):
            file.write(rows[order[start : start + _CHUNK]].tobytes())


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, create_npy(temporary, array.shape, array.dtype) as file:
        file.write(array.tobytes())
