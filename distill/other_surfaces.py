"""Rows of other surfaces: a student may also learn from what the teacher says of them (ours).

A small surface has few rows of its own, and on those few a distill head has little to learn from. The teacher knows the
rows of all surfaces and has logged what it says of each. Such rows need no label: they reach the channels that ask for
them (`Channel.other_surfaces`) and nothing else of the student. A day is trained on in two parts, the other surfaces'
rows first, then the student's own, so that its labels have the last word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.errors import UserError
from distill.protocols import Channel
from distill.stream import DayStream


class OthersFirst(IterableDataset):
    """A day's batches of other surfaces, then those of the student's own; resumes as `DayStream` does.

    Args:
        others: with `own` False.
        own: the student's rows.
    """

    def __init__(self, others: DayStream, own: DayStream):
        self._parts = {"others": others, "own": own}
        self._part = "others"
        self._resumed = False

    def __len__(self) -> int:
        """Batches of the whole day."""
        return sum(len(part) for part in self._parts.values())

    def __iter__(self) -> Iterator[Batch]:
        # A part that is resumed goes on where its own state says.
        start = self._part if self._resumed else "others"
        self._resumed, self._part = False, start
        return self._batches(start)

    def state_dict(self) -> dict[str, Any]:
        """Position after the batches that were yielded."""
        return {"part": self._part, "stream": self._parts[self._part].state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position: the next `iter` starts there.

        Raises:
            DataError: the position belongs to another stream.
        """
        self._part = state["part"]
        self._parts[self._part].load_state_dict(state["stream"])
        self._resumed = True

    def _batches(self, start: str) -> Iterator[Batch]:
        if start == "others":
            yield from self._parts["others"]
        self._part = "own"
        yield from self._parts["own"]


def other_surfaces(channels: Iterable[Channel]) -> float:
    """The share of the other surfaces' rows that a student's channels learn from; 0 for none.

    Raises:
        UserError: two of them ask for different shares; a batch reaches all that ask for any.
    """
    shares = {channel.other_surfaces for channel in channels} - {0.0}
    if len(shares) > 1:
        raise UserError(
            f"other_surfaces: got {', '.join(f'{share:g}' for share in sorted(shares))} in the channels of one "
            "student, allowed: one share, or 0 in some of them"
        )
    return max(shares, default=0.0)
