"""Content vectors of items: one memory-mapped table per modality, asked by item id.

The vectors of images, texts, audio or video are computed elsewhere and come with the data set (`content` in its
schema). They belong to items; an example gets those of its own item, an event of the history those of its item.

Shape letters: N ids, I ids of the item table, M width of a modality.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.errors import DataError, nearest
from distill.schema import FeatureSchema

_DAMAGED = "The content vectors are damaged. Remove the prepared data set, and it is made anew."


class ContentStore:
    """Reads what `distill.sources.content` builds. Pickled by its arguments: a worker opens it itself.

    Args:
        folder: the data set's `content` folder.
        schema: the data set's schema.
        names: modalities to open; None for all.

    Raises:
        DataError: no such modality; a file that is missing, cut off, or of another shape.
    """

    def __init__(self, folder: str | Path, schema: FeatureSchema, names: Iterable[str] | None = None):
        self.folder, self.schema = Path(folder), schema
        self.names = tuple(schema.content if names is None else names)
        self._items = schema.sparse[schema.item_feature].size
        self._vectors: dict[str, np.ndarray] = {}
        self._known: dict[str, np.ndarray] = {}
        for name in self.names:
            if name not in schema.content:
                allowed = ", ".join(schema.content) or "none (the data set has no content vectors)"
                raise DataError(
                    f"content: got '{name}', allowed: {allowed}. {nearest(name, schema.content)}".rstrip()
                )
            shape = (self._items, schema.content[name].width)
            self._vectors[name] = self._open(name, "vectors", shape, np.float16)
            self._known[name] = self._open(name, "known", shape[:1], np.bool_)

    def __reduce__(self) -> tuple[type[ContentStore], tuple[Path, FeatureSchema, tuple[str, ...]]]:
        return ContentStore, (self.folder, self.schema, self.names)

    def look_up(self, name: str, item: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of these items.

        Args:
            name: a modality.
            item: int64 [N], ids of the schema's item feature.

        Returns:
            float32 [N, M], zeros where an item has no vector, and bool [N], False there.

        Raises:
            DataError: an id outside the item table.
        """
        ids = item.numpy()
        if len(ids) and (ids.min() < 0 or ids.max() >= self._items):
            wrong = ids[(ids < 0) | (ids >= self._items)][0]
            raise DataError(
                f"content.{name}: got {self.schema.item_feature} {wrong}, allowed: 0 to {self._items - 1}"
            )
        # The ids are known to lie inside: "clip" skips a buffered copy. torch widens faster than numpy.
        half = torch.from_numpy(self._vectors[name].take(ids, axis=0, mode="clip"))
        return half.float(), torch.from_numpy(self._known[name].take(ids, mode="clip"))

    def known(self, name: str) -> int:
        """Number of items that have a vector."""
        return int(np.count_nonzero(self._known[name]))

    def _open(self, name: str, kind: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        path = self.folder / name / f"{kind}.npy"
        try:
            found = np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not readable ({error}). {_DAMAGED}") from error
        if found.shape != shape or found.dtype != dtype:
            raise DataError(
                f"{path}: got {found.dtype} {list(found.shape)}, allowed: {np.dtype(dtype)} {list(shape)}. {_DAMAGED}"
            )
        return found
