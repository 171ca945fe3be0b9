"""Builds the content vectors of a data set (`distill.content` reads them).

Vectors arrive in any order of items and wait in scratch files; `build` sorts them by item and writes one row per id
of the item table, zeros where an item has none. Memory: 8 bytes per id of the item table and per vector; the vectors
are gathered in chunks from memory-mapped files.

Shape letters: N vectors at once, I ids of the item table, M width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill.errors import DataError, nearest
from distill.schema import FeatureSchema
from distill.sources.npy import create_npy

CHUNK = 1 << 14
LARGEST = float(np.finfo(np.float16).max)


class ContentBuilder:
    """Collects the vectors of every modality of a schema and writes them.

    Args:
        folder: gets a folder for each modality.
        schema: the data set's schema.
        source: name of the source, for messages.
    """

    def __init__(self, folder: Path, schema: FeatureSchema, source: str):
        self._folder, self._schema, self._source = folder, schema, source
        self._parts: dict[str, _Modality] = {}

    def append(self, name: str, item: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors of a modality: integers [N] and floats [N, M].

        Raises:
            DataError: no such modality; another width; an id outside the item table; a number that is not finite in
                half precision.
        """
        known = self._schema.content
        if name not in known:
            names = ", ".join(known) or "none (the schema has no content)"
            raise DataError(
                f"{self._source}: content: got '{name}', allowed: {names}. {nearest(name, known)}".rstrip()
            )
        if name not in self._parts:
            self._parts[name] = _Modality(self._folder / name, self._schema, name, self._source)
        self._parts[name].append(item, vectors)

    def build(self) -> None:
        """Write `vectors.npy`, float16 [I, M], and `known.npy`, bool [I], of every modality.

        Raises:
            DataError: a modality of the schema was not given; an item has two vectors.
        """
        missing = [name for name in self._schema.content if name not in self._parts]
        if missing:
            raise DataError(
                f"{self._source}: content: got no vectors of {', '.join(missing)}, which the schema names"
            )
        for part in self._parts.values():
            part.build()

    def close(self) -> None:
        """Let go of the scratch files, also when the data set is given up."""
        for part in self._parts.values():
            part.close()


class _Modality:
    """The vectors of one modality."""

    def __init__(self, folder: Path, schema: FeatureSchema, name: str, source: str):
        folder.mkdir(parents=True)
        self._folder = folder
        self._item = schema.item_feature
        self._items = schema.sparse[schema.item_feature].size
        self._width = schema.content[name].width
        self._where = f"{source}: content.{name}"
        self._ids = (folder / "ids.tmp").open("wb")
        self._values = (folder / "values.tmp").open("wb")

    def append(self, item: np.ndarray, vectors: np.ndarray) -> None:
        item = np.asarray(item, np.int64)
        if vectors.shape != (len(item), self._width):
            raise DataError(
                f"{self._where}: got vectors of shape {list(vectors.shape)} for {len(item)} items, allowed: "
                f"[{len(item)}, {self._width}], the width of the schema"
            )
        self._check_ids(item)
        with np.errstate(over="ignore"):  # found below, with its item
            half = vectors.astype(np.float16)
        self._check_finite(item, vectors, half)
        self._ids.write(item.tobytes())
        self._values.write(half.tobytes())

    def build(self) -> None:
        self.close()
        ids, values = Path(self._ids.name), Path(self._values.name)
        item = np.fromfile(ids, np.int64)
        order = np.argsort(item, kind="stable")
        item = item[order]
        self._check_unique(item)
        self._gather(item, order, values)
        known = np.zeros(self._items, np.bool_)
        known[item] = True
        with create_npy(self._folder / "known.npy", known.shape, known.dtype) as file:
            file.write(known.tobytes())
        ids.unlink()
        values.unlink()

    def _gather(self, item: np.ndarray, order: np.ndarray, values: Path) -> None:
        """Rows of all ids from the scratch file, where the vector of `item[n]`, ascending, is number `order[n]`."""
        scratch = np.empty((0, self._width), np.float16)
        if len(item):
            scratch = np.memmap(values, np.float16, mode="r", shape=(len(item), self._width))
        with create_npy(
            self._folder / "vectors.npy", (self._items, self._width), np.dtype(np.float16)
        ) as file:
            for start in range(0, self._items, CHUNK):
                stop = min(start + CHUNK, self._items)
                first, last = np.searchsorted(item, (start, stop))
                rows = np.zeros((stop - start, self._width), np.float16)
                rows[item[first:last] - start] = scratch[order[first:last]]
                file.write(rows.tobytes())

    def close(self) -> None:
        self._ids.close()
        self._values.close()

    def _check_ids(self, item: np.ndarray) -> None:
        if len(item) and (item.min() < 0 or item.max() >= self._items):
            wrong = item[(item < 0) | (item >= self._items)][0]
            raise DataError(
                f"{self._where}: got {self._item} {wrong}, outside its table, allowed: 0 to {self._items - 1}"
            )

    def _check_finite(self, item: np.ndarray, vectors: np.ndarray, half: np.ndarray) -> None:
        if np.isfinite(half).all():
            return
        row, column = np.argwhere(~np.isfinite(half))[0]
        raise DataError(
            f"{self._where}: got {vectors[row, column]} in the vector of {self._item} {item[row]}, allowed: numbers "
            f"from -{LARGEST:.0f} to {LARGEST:.0f} (half precision). Leave out the row of an item without a vector."
        )

    def _check_unique(self, item: np.ndarray) -> None:
        twice = np.unique(item[1:][item[1:] == item[:-1]])
        if len(twice):
            few = ", ".join(str(i) for i in twice[:5])
            raise DataError(
                f"{self._where}: {self._item}: {len(twice)} items have two vectors ({few}), allowed: one each"
            )
