"""Builds the history index of a data set (`distill.history` reads it).

Events arrive in any order and wait in scratch files; `build` sorts them by (user, time) and writes the index.
Ties keep the order of arrival. Memory: about 40 bytes per event while sorting (user, time, order); the other
columns are gathered in chunks from memory-mapped files.

Shape letters: E events, U users, K tasks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill.sources.npy import create_npy

CHUNK = 1 << 20
COLUMNS = ("user_id", "time", "item", "domain", "label", "matures", "example_id")
DTYPES = {
    "user_id": np.int64,
    "time": np.int64,
    "item": np.int64,
    "domain": np.int32,
    "label": np.int8,
    "matures": np.int64,
    "example_id": np.int64,
}
NO_EXAMPLE = -1
"""The example id of an event that is no row of the log, such as one from before day 1."""


class EventBuilder:
    """Collects events and writes the index.

    Args:
        folder: the index's folder; created.
        tasks: K.
    """

    def __init__(self, folder: Path, tasks: int):
        folder.mkdir(parents=True)
        self._folder = folder
        self._tasks = tasks
        self._longest_wait = np.zeros(tasks, np.int64)
        self._files = {name: (folder / f"{name}.tmp").open("wb") for name in COLUMNS}

    def append(
        self,
        user_id: np.ndarray,
        time: np.ndarray,
        item: np.ndarray,
        domain: np.ndarray,
        labels: np.ndarray,
        matures: np.ndarray,
        example_id: np.ndarray,
    ) -> None:
        """Add events: [E], labels and matures [E, K]. The reader hides labels that are not matured."""
        columns = (user_id, time, item, domain, labels, matures, example_id)
        values = dict(zip(COLUMNS, columns, strict=True))
        for name, file in self._files.items():
            shape = (len(user_id), self._tasks) if name in ("label", "matures") else (len(user_id),)
            array = np.asarray(values[name])
            assert array.shape == shape, f"events: {name} has shape {array.shape}, allowed: {shape}"
            file.write(array.astype(DTYPES[name]).tobytes())
        if len(user_id):
            waits = np.asarray(matures) - np.asarray(time)[:, None]
            self._longest_wait = np.maximum(self._longest_wait, waits.max(axis=0))

    def build(self) -> None:
        """Sort, write the index, drop the scratch files."""
        self.close()
        scratch = {name: self._folder / f"{name}.tmp" for name in COLUMNS}
        user = np.fromfile(scratch["user_id"], np.int64)
        order = np.lexsort((np.fromfile(scratch["time"], np.int64), user))
        user = user[order]
        first = np.flatnonzero(np.diff(user, prepend=user[:1] - 1)) if len(user) else np.zeros(0, np.int64)
        self._save("user_id", user[first])
        self._save("offsets", np.append(first, len(user)).astype(np.int64))
        del user
        for name in COLUMNS[1:]:
            self._gather(name, scratch[name], order)
        self._save("longest_wait", self._longest_wait)
        for path in scratch.values():
            path.unlink()

    def close(self) -> None:
        """Let go of the scratch files, also when the data set is given up."""
        for file in self._files.values():
            file.close()

    def _gather(self, name: str, scratch: Path, order: np.ndarray) -> None:
        width = (self._tasks,) if name in ("label", "matures") else ()
        if not len(order):
            self._save(name, np.empty((0, *width), DTYPES[name]))
            return
        source = np.memmap(scratch, DTYPES[name], mode="r", shape=(len(order), *width))
        with create_npy(self._folder / f"{name}.npy", source.shape, source.dtype) as file:
            for start in range(0, len(order), CHUNK):
                file.write(source[order[start : start + CHUNK]].tobytes())

    def _save(self, name: str, array: np.ndarray) -> None:
        with create_npy(self._folder / f"{name}.npy", array.shape, array.dtype) as file:
            file.write(array.tobytes())
