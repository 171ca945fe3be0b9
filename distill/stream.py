"""A day as a stream of batches: read by row group, decoded once, sliced.

Batches do not depend on the size of the row groups. With several shards, every shard gets the same number of
batches (the day's last rows are dealt out evenly), because collective steps wait for each other.

Shape letters: B examples, K tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from distill.batch import Batch, ContentVectors, Events, Past, TeacherSignal
from distill.block import Block
from distill.content import ContentStore
from distill.dataset import DataSet
from distill.day_reader import DayReader
from distill.delay import LabelRule
from distill.errors import DataError
from distill.history import EventStore
from distill.past import PastReader
from distill.sampling import NegativeSampling


class TeacherReader(Protocol):
    """Whatever knows the teacher's logits by example (`distill.teacher_log.TeacherLog`)."""

    def join(self, example_id: Tensor, day: int) -> TeacherSignal:
        """The signal of these examples, int64 [B], of one day."""


class DayStream(IterableDataset):
    """Batches of one day in order of (timestamp, example_id); the last may be short.

    Use it bare, or in a DataLoader with `batch_size=None` and at most one worker. It resumes bit-exactly in
    mid-day from `state_dict`, also inside torchdata's StatefulDataLoader.

    Args:
        data: the data set.
        day: day number, from 1.
        batch_size: B.
        features: sparse features wanted, in the order of the batch's keys.
        dense: dense features wanted, in order.
        history_length: last events of the user wanted, 0 for no history.
        domains: names of the surfaces whose rows are wanted; None for all.
        shard, num_shards: which part of every step's rows this process gets.
        teacher: joined to every batch by example id.
        validate: check the data contract on every row group that is read.
        content: modalities whose content vectors are wanted, of the examples' items and of the history's. The items'
            ids are read for it, whether or not they are among the features.
        labels: what training on the day learns from (`distill.delay.label_rule`); None for matured labels.
        others: further teachers by name, joined like `teacher`.
        past: gives the teacher's stored representations. The items' ids are read for it as for `content`.
        negatives: which rows are wanted of those that are not known to be positive; None for all.
        share: of the rows that is wanted, by their ids.
        own: False when they are of other surfaces than the model's (`Batch.own`).

    Raises:
        DataError: unknown feature, modality or surface, a day that is missing, a column that is missing, a day of
            whose own rows none is kept.
    """

    def __init__(
        self,
        data: DataSet,
        day: int,
        batch_size: int,
        features: Sequence[str],
        dense: Sequence[str] = (),
        history_length: int = 0,
        domains: Collection[str] | None = None,
        shard: int = 0,
        num_shards: int = 1,
        teacher: TeacherReader | None = None,
        validate: bool = True,
        content: Sequence[str] = (),
        labels: LabelRule | None = None,
        others: Mapping[str, TeacherReader] | None = None,
        past: PastReader | None = None,
        negatives: NegativeSampling | None = None,
        share: float = 1.0,
        own: bool = True,
    ):
        assert batch_size >= 1 and 0 <= shard < num_shards, (
            f"batch {batch_size}, shard {shard} of {num_shards}"
        )
        self.data, self.day, self.batch_size = data, day, batch_size
        self.features, self.dense = tuple(features), tuple(dense)
        self.history_length, self.own = history_length, own
        self.shard, self.num_shards = shard, num_shards
        self.teacher, self.others, self.past = teacher, dict(others or {}), past
        self.content = tuple(content)
        item = data.schema.item_feature
        self._extra = (item,) if (content or past) and item not in self.features else ()
        read = (*self.features, *self._extra)
        self.reader = DayReader(data, day, read, self.dense, domains, validate, labels, negatives, share)
        if own:
            self.reader.refuse_nothing_kept()
        self.vectors = ContentStore(data.content_folder, data.schema, self.content) if content else None
        self._single = [name for name in read if not data.schema.sparse[name].multi]
        self.events = EventStore(data.events_folder) if history_length else None
        self._plan = _Plan(self.reader.rows, batch_size, shard, num_shards)
        self._next = 0
        self._resumed = False

    def __len__(self) -> int:
        """Batches of the whole day."""
        return self._plan.steps

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise DataError(
                f"workers of a day stream: got {worker.num_workers}, allowed: 0 or 1, to keep the order"
            )
        # Not inside the generator: its body would only run when the first batch is asked for.
        start = self._next if self._resumed else 0
        self._resumed, self._next = False, start
        return self._batches(start)

    def state_dict(self) -> dict[str, Any]:
        """Position after the batches that were yielded, and what it is valid for; the same in every shard."""
        row_group, row = self.reader.place(self._plan.first_row(self._next))
        return {**self._identity(), "row_group": row_group, "row": row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position: the next `iter` starts there.

        Raises:
            DataError: the position belongs to another day, number of rows a step, set of rows or data set.
        """
        for key, allowed in self._identity().items():
            if state.get(key) != allowed:
                raise DataError(f"position in a day: {key}: got {state.get(key)!r}, allowed: {allowed!r}")
        self._next = self._plan.step_at(self.reader.row_at(state["row_group"], state["row"]))
        self._resumed = True

    def _identity(self) -> dict[str, Any]:
        return {
            "fingerprint": self.data.fingerprint,
            "day": self.day,
            "rows": self.reader.rows,
            # Of all shards together: another number of them goes on from the same row.
            "rows_per_step": self.batch_size * self.num_shards,
            "labels": self.reader.labels.kind,
            "negatives": None if self.reader.negatives is None else asdict(self.reader.negatives),
            "share": self.reader.share,
            "own": self.own,
        }

    def _batches(self, start: int) -> Iterator[Batch]:
        for step in range(start, len(self)):
            batch = self.batch_of(self.reader.read(*self._plan.bounds(step)))
            self._next = step + 1
            yield batch

    def batch_of(self, block: Block) -> Batch:
        """Any rows of the day as a batch, with all that was asked for."""
        history = None
        if self.events is not None:
            history = self.events.last(block.user_id, block.timestamp, self.history_length)
        content, past = self._vectors_of(block, history), self._past_of(block)
        if self._extra:
            block = replace(block, single=block.single[:-1])
        return Batch(
            day=self.day,
            example_id=block.example_id,
            user_id=block.user_id,
            timestamp=block.timestamp,
            domain=block.domain,
            sparse=block.keyed_jagged(self.features),
            dense=block.dense,
            labels=block.labels,
            label_mask=block.label_mask,
            matured=block.matured,
            history=history,
            teacher=None if self.teacher is None else self.teacher.join(block.example_id, self.day),
            others={name: reader.join(block.example_id, self.day) for name, reader in self.others.items()},
            past=past,
            content=content,
            own=self.own,
        )

    def _items_of(self, block: Block) -> Tensor:
        return block.single[self._single.index(self.data.schema.item_feature)]

    def _past_of(self, block: Block) -> dict[str, Past]:
        if self.past is None:
            return {}
        return dict(self.past.read(block.user_id, self._items_of(block).numpy(), block.timestamp, self.day))

    def _vectors_of(self, block: Block, history: Events | None) -> dict[str, ContentVectors]:
        if self.vectors is None:
            return {}
        item, found = self._items_of(block), {}
        for name in self.content:
            of_events = self.vectors.look_up(name, history.item) if history is not None else (None, None)
            found[name] = ContentVectors(*self.vectors.look_up(name, item), *of_events)
        return found


@dataclass(frozen=True)
class _Plan:
    """Which rows are in which batch: a step takes `batch_size` rows a shard, the last one what is left."""

    rows: int
    batch_size: int
    shard: int
    num_shards: int

    @property
    def steps(self) -> int:
        if 0 < self.rows < self.num_shards:
            raise DataError(
                f"shards: got {self.num_shards} for a day of {self.rows} rows, allowed: at most one a row"
            )
        full, rest = divmod(self.rows, self.batch_size * self.num_shards)
        # Fewer rows than shards are no step of their own: the step before takes them too.
        return full + (rest >= self.num_shards)

    def first_row(self, step: int) -> int:
        return min(step * self.batch_size * self.num_shards, self.rows) if step < self.steps else self.rows

    def bounds(self, step: int) -> tuple[int, int]:
        first, last = self.first_row(step), self.first_row(step + 1)
        rows = last - first
        return first + rows * self.shard // self.num_shards, first + rows * (
            self.shard + 1
        ) // self.num_shards

    def step_at(self, row: int) -> int:
        return self.steps if row >= self.rows else row // (self.batch_size * self.num_shards)
