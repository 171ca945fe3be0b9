"""The history of users: one memory-mapped, time-ordered event index per data set, asked by (user, time).

No history is written into the examples; whatever is stored per event shares this index. Two rules stand here
and nowhere else: an event is seen only strictly after its time, and its label only once it is matured.

The look-up itself (`last_before`, `positions`) is for any keys with rising times: `distill.past_index` uses it too.

Shape letters: B queries, T events found, E events stored, U users or other keys, K tasks, L most events asked for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.batch import Events
from distill.errors import DataError
from distill.rows import UNKNOWN

_DAMAGED = "The history index is damaged. Remove the prepared data set, and it is made anew."


class EventStore:
    """Reads the index that `distill.sources.events` builds. Pickled as its folder: a worker opens it itself.

    Args:
        folder: the data set's `events` folder.

    Attributes:
        user_id: int64 [U], rising.
        offsets: int64 [U + 1], where each user's events begin.
        time, item, domain, label, matures: of every event, [E] or [E, K].
        example_id: int64 [E], by which whatever was logged of an example finds its event; -1 where the event is no row
            of the log. No batch carries it.

    Raises:
        DataError: a file of the index is missing or cut off.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.user_id = self._open("user_id")
        self.offsets = self._open("offsets")
        self.time = self._open("time")
        self.item = self._open("item")
        self.domain = self._open("domain")
        self.label = self._open("label")
        self.matures = self._open("matures")
        self.example_id = self._open("example_id")
        # Per task, the longest wait for a label: older events are matured without a look at `matures`.
        self._longest_wait = self._open("longest_wait")
        columns = (self.time, self.item, self.domain, self.label, self.matures, self.example_id)
        lengths = {len(column) for column in columns}
        if lengths != {int(self.offsets[-1])}:
            raise DataError(f"{self.folder}: columns differ in length. {_DAMAGED}")

    def __reduce__(self) -> tuple[type[EventStore], tuple[Path]]:
        return EventStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.time)

    def last(self, user_id: Tensor, timestamp: Tensor, limit: int) -> Events:
        """The last events of these users strictly before these times, oldest first.

        Args:
            user_id: int64 [B]; an unknown user has no events.
            timestamp: int64 [B] ms.
            limit: L, at least 1.

        Returns:
            At most L events per query, labels that are not matured at the query's timestamp as -1.
        """
        start, stop = self.locate(user_id.numpy(), timestamp.numpy(), limit)
        return self.gather(start, stop, timestamp.numpy())

    def locate(self, user_id: np.ndarray, timestamp: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Where those events lie.

        Args:
            user_id: int64 [B].
            timestamp: int64 [B] ms.
            limit: L.

        Returns:
            Start and stop positions in the index, int64 [B] each.
        """
        return last_before(self.user_id, self.offsets, self.time, user_id, timestamp, limit)

    def gather(self, start: np.ndarray, stop: np.ndarray, timestamp: np.ndarray) -> Events:
        """The events at these positions.

        Args:
            start, stop: int64 [B], from `locate`.
            timestamp: int64 [B] ms, the queries' own times, which decide what labels are matured.
        """
        offsets, index = positions(start, stop)
        time = take(self.time, index)
        return Events(
            offsets=torch.from_numpy(offsets),
            item=torch.from_numpy(take(self.item, index)),
            time=torch.from_numpy(time),
            domain=torch.from_numpy(take(self.domain, index).astype(np.int64)),
            labels=torch.from_numpy(self._matured(index, time, timestamp, stop - start)),
        )

    def _matured(
        self, index: np.ndarray, time: np.ndarray, timestamp: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        labels = take(self.label, index)
        for k in np.flatnonzero(self._longest_wait):
            recent = np.flatnonzero(time > np.repeat(timestamp - self._longest_wait[k], lengths))
            now = np.repeat(timestamp, lengths)[recent]
            labels[recent[self.matures[index[recent], k] > now], k] = UNKNOWN
        return labels

    def _open(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            # A plain view of the mapped file: indexing np.memmap itself costs more than the look-up.
            return np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not readable ({error}). {_DAMAGED}") from error


def last_before(
    keys: np.ndarray, offsets: np.ndarray, time: np.ndarray, key: np.ndarray, now: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the last entries of these keys strictly before these times lie.

    Args:
        keys: int64 [U], rising.
        offsets: int64 [U + 1], where each key's entries begin.
        time: int64 [E], rising within a key.
        key: int64 [B]; an unknown key has no entries.
        now: int64 [B], in the unit of `time`.
        limit: L, at least 1.

    Returns:
        Start and stop positions, int64 [B] each, at most L apart.
    """
    assert limit >= 1, f"history limit: got {limit}, allowed: at least 1"
    begin, end = _segments(keys, offsets, key)
    stop = _first_not_before(time, begin, end, now)
    return np.maximum(begin, stop - limit), stop


def positions(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All positions between these starts and stops, one query after the other.

    Args:
        start, stop: int64 [B].

    Returns:
        Offsets int64 [B + 1] of the queries, and positions int64 [T].
    """
    lengths = stop - start
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets, np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)


def take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """values[index], faster: the index is known to lie inside, and "clip" skips a buffered copy."""
    return values.take(index, axis=0, mode="clip")


def _segments(keys: np.ndarray, offsets: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(keys):
        return np.zeros_like(key), np.zeros_like(key)
    row = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
    begin = offsets[row]
    return begin, np.where(keys[row] == key, offsets[row + 1], begin)


def _first_not_before(time: np.ndarray, begin: np.ndarray, end: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Bisect every segment [begin, end) of rising times at once: the first position whose time is >= now."""
    low, high = begin.copy(), end.copy()
    last = max(len(time) - 1, 0)
    longest = int((end - begin).max(initial=0))
    for _ in range(longest.bit_length()):
        middle = (low + high) >> 1
        open_ = low < high
        before = open_ & (time[np.minimum(middle, last)] < now)
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low
