"""The teacher's stored representations of earlier examples: what is asked for, and who answers.

Shape letters: B examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from distill.batch import Past


@dataclass(frozen=True)
class PastRequest:
    """What of the teacher's earlier representations a channel reads beside every example.

    Attributes:
        user_events: most of the user's last examples whose representations are wanted; 0 for none.
        item: also one vector of the example's item: the decayed mean over the item's earlier days.
        alignment: procrustes, to turn the spaces of all snapshots into that of the first; none, which allows one
            snapshot only.
        codec: how the user's are stored: int8 or fp16; the items' means are fp16.
        half_life_days: of an example's weight in its item's mean.
    """

    user_events: int = 0
    item: bool = False
    alignment: str = "procrustes"
    codec: str = "int8"
    half_life_days: float = 3.0


@dataclass(frozen=True)
class ServedRepresentations:
    """What of the teacher's representations a channel's fields are made of when a student is served.

    Attributes:
        width: leading numbers of a representation that are read.
        user_events: most of the user's last examples whose representations are read; 0 for none.
        item: whether the one vector of the example's item is read.
        current: whether the example's own representation is read, for which the teacher has to run.
    """

    width: int
    user_events: int = 0
    item: bool = False
    current: bool = False


class PastReader(Protocol):
    """Whatever holds stored representations (`distill.past_store.PastStore`)."""

    def read(self, user_id: Tensor, item: np.ndarray, timestamp: Tensor, day: int) -> Mapping[str, Past]:
        """Representations strictly before these examples.

        Args:
            user_id, timestamp: int64 [B]; timestamps in ms.
            item: int64 [B], ids of the schema's item feature.
            day: the examples' day.

        Returns:
            By group: `user`, `item`, as the request says.
        """
