"""The days of a training as Lightning asks for them: one epoch is one day."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
from torch.distributed.checkpoint.stateful import Stateful
from torch.utils.data import IterableDataset

from distill.batch import Batch
from distill.checkpoints import Start
from distill.schedule import DayPlan

Days = Callable[[int, bool], IterableDataset]
"""(day, True when it is trained on) to a stream of batches."""


class DayData(L.LightningDataModule):
    """Hands Lightning the day that belongs to the epoch.

    Args:
        days: (day, True when trained on) -> a stream of batches.
        plan: which days are trained on and predicted.
    """

    def __init__(self, days: Days, plan: DayPlan):
        super().__init__()
        self.days, self.plan = days, plan
        self.start: Start | None = None

    def train_dataloader(self) -> IterableDataset:  # a `DataLoader` around it would do nothing, at every step
        self._stream = self.days(self.today, True)
        return _Rest(self._stream, self.start) if self.start is not None and self.done else self._stream

    def val_dataloader(self) -> list[IterableDataset]:
        return [self.days(day, False) for day in self.plan.predict_after.get(self.today, ())]

    @property
    def today(self) -> int:
        """The day that is trained on, or was last."""
        assert self.trainer is not None
        return self.plan.train[self.trainer.current_epoch]

    @property
    def done(self) -> int:
        """Batches of today that were trained on before this process went on."""
        return self.start.batches if self.start is not None and self.start.day == self.today else 0

    def position(self) -> dict[str, Any]:
        """In the stream of the day that is trained on."""
        assert isinstance(self._stream, Stateful), (
            "a training with checkpoints needs streams that have a state"
        )
        return self._stream.state_dict()


class _Rest(IterableDataset):
    """What is left of a day that was trained on in part.

    Args:
        stream: of the whole day.
        start: the part that is done.
    """

    def __init__(self, stream: IterableDataset, start: Start):
        self._stream, self._start = stream, start

    def __len__(self) -> int:
        return len(self._stream) - self._start.batches  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        self._stream.load_state_dict(self._start.stream)  # type: ignore[attr-defined]
        return iter(self._stream)
