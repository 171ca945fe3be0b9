"""The batch: what a stream yields and every architecture reads.

Shape letters: B examples, K tasks of the schema, F sparse features asked for, N dense features, T history events of
the whole batch, M width of a modality, R width of a teacher's representation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor


@dataclass(frozen=True)
class Events:
    """Jagged history: the events of example b lie at offsets[b]:offsets[b + 1], oldest first.

    Attributes:
        offsets: int64 [B + 1].
        item: int64 [T], ids of the schema's item feature.
        time: int64 [T], ms; strictly before the example's timestamp.
        domain: int64 [T], index into the schema's domains.
        labels: int8 [T, K], 0 or 1, -1 where not known at the example's timestamp.
    """

    offsets: Tensor
    item: Tensor
    time: Tensor
    domain: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Events:
        """The same events on a device."""
        return Events(
            *(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__)
        )

    def last(self, length: int, rows: Tensor) -> tuple[Events, Tensor]:
        """The last events of every example, for who wants fewer than the batch carries.

        Args:
            length: most events of an example.
            rows: [T, W], or [N, T, W] of N students, what is known of the events beside this.

        Returns:
            Those events, and their rows.
        """
        kept = self.offsets.diff().clamp_max(length)
        offsets = torch.zeros_like(self.offsets)
        torch.cumsum(kept, 0, out=offsets[1:])
        events = int(offsets[-1])
        shift = (self.offsets - offsets)[1:].repeat_interleave(kept, output_size=events)
        places = torch.arange(events, device=offsets.device) + shift
        columns = (getattr(self, name)[places] for name in ("item", "time", "domain", "labels"))
        return Events(offsets, *columns), rows.index_select(-2, places)

    def shared(self, by: SharedHistory, rows: Tensor) -> tuple[Events, Tensor]:
        """Every example's own copy of the events, where several examples share a history.

        Args:
            by: who shares what.
            rows: [T, W], what is known of the events beside this.

        Returns:
            Events of B examples, and their rows.
        """
        columns = (getattr(self, name)[by.events] for name in ("item", "time", "domain", "labels"))
        return Events(by.offsets, *columns), rows.index_select(0, by.events)

    def flags(self, domains: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """What is known of an event beside its item, as zeros and ones.

        Args:
            domains: S, number of surfaces.
            dtype: of the result.

        Returns:
            [T, S + 2 * K]: 1 at the event's surface, at its positive labels, and K further on at its negative ones.
        """
        tasks = self.labels.size(1)
        flags = self.labels.new_zeros(len(self.item), domains + 2 * tasks, dtype=dtype)
        flags.scatter_(1, self.domain.unsqueeze(1), 1.0)
        positive, negative = flags[:, domains:].chunk(2, dim=1)
        positive.copy_(self.labels == 1)
        negative.copy_(self.labels == 0)
        return flags


@dataclass(frozen=True)
class SharedHistory:
    """Who shares which of U histories, where several examples have one: the candidates of a request.

    Attributes:
        of: int64 [B], the history of each example.
        events: int64 [P], its events' places among the T, example by example: P is B histories' length together.
        offsets: int64 [B + 1], where each example's places begin.
    """

    of: Tensor
    events: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class TeacherSignal:
    """What the teacher log knows about the examples.

    Attributes:
        logits: float32 [B, K], raw; 0 where there is no signal.
        mask: bool [B], False on rows older than the first snapshot of the lag.
        age: float32 [B], days of data between the snapshot's last trained day and the example's day: 0 for a snapshot
            of the evening before, PROTOCOL's lag in a progressive schedule; 0 where there is no signal.
        representation: float32 [B, R], within -1 and 1, when asked for; 0 where there is no signal.
    """

    logits: Tensor
    mask: Tensor
    age: Tensor
    representation: Tensor | None = None

    def to(self, device: torch.device) -> TeacherSignal:
        """The same signal on a device."""
        parts = {name: value for name, value in vars(self).items() if value is not None}
        return TeacherSignal(**{name: part.to(device, non_blocking=True) for name, part in parts.items()})


@dataclass(frozen=True)
class Past:
    """Representations that the teacher stored of earlier examples, jagged: those of example b lie at
    offsets[b]:offsets[b + 1], oldest first.

    Attributes:
        offsets: int64 [B + 1].
        values: float32 [P, R], P vectors in the whole batch.
        time: int64 [P], ms; strictly before the example's timestamp.
    """

    offsets: Tensor
    values: Tensor
    time: Tensor

    def to(self, device: torch.device) -> Past:
        """The same representations on a device."""
        return Past(
            *(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__)
        )


@dataclass(frozen=True)
class ContentVectors:
    """Vectors of one modality, computed elsewhere. What stands in the vector of an item that has none is no value.

    Attributes:
        item: float32 [B, M], of the examples' own items.
        item_known: bool [B], False where the item has no vector.
        events: float32 [T, M], of the history's items; None without a history.
        events_known: bool [T].
    """

    item: Tensor
    item_known: Tensor
    events: Tensor | None = None
    events_known: Tensor | None = None

    def to(self, device: torch.device) -> ContentVectors:
        """The same vectors on a device."""
        parts = {name: value for name, value in vars(self).items() if value is not None}
        return ContentVectors(**{name: part.to(device, non_blocking=True) for name, part in parts.items()})


@dataclass(frozen=True)
class Batch:
    """B examples of one day, in the order of the stream.

    Attributes:
        day: PROTOCOL's day number, from 1.
        example_id, user_id, timestamp, domain: int64 [B] (timestamp in ms, domain an index into schema.domains).
        sparse: KeyedJaggedTensor of the asked sparse features, stride B.
        dense: float32 [B, N].
        labels: float32 [B, K], what training learns from (`distill.delay`): 0 or 1, by the rule `weighted` also numbers
            up to its LARGEST_TARGET; 0 where unknown.
        label_mask: bool [B, K]; False where nothing is learnt, such as from a label that is not matured when the day
            is trained on.
        matured: bool [B, K], where `labels` holds a matured label, by whichever rule training learns.
        history: the users' last events, when asked for.
        shared: who shares them, when a student is served; None in training, where example b has the b-th history.
        teacher: the teacher log's rows, when asked for.
        others: those of the other teachers by name, when asked for.
        past: the teacher's stored representations by group, `user` or `item`, when asked for.
        content: content vectors by modality, those that were asked for.
        own: False for rows of other surfaces than the model's, from which only channels learn that ask for them.
    """

    day: int
    example_id: Tensor
    user_id: Tensor
    timestamp: Tensor
    domain: Tensor
    sparse: KeyedJaggedTensor
    dense: Tensor
    labels: Tensor
    label_mask: Tensor
    matured: Tensor
    history: Events | None = None
    shared: SharedHistory | None = None
    teacher: TeacherSignal | None = None
    others: dict[str, TeacherSignal] = field(default_factory=dict)
    past: dict[str, Past] = field(default_factory=dict)
    content: dict[str, ContentVectors] = field(default_factory=dict)
    own: bool = True

    def __len__(self) -> int:
        return self.example_id.numel()

    def with_teacher(self, teacher: TeacherSignal) -> Batch:
        """The same batch with the teacher's signal."""
        return replace(self, teacher=teacher)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; itself when it is there already. Lightning calls this."""
        if self.example_id.device == device:
            return self
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor | KeyedJaggedTensor)
        }
        parts = {
            name: part.to(device)
            for name in ("history", "teacher")
            if (part := getattr(self, name)) is not None
        }
        named: dict[str, Any] = {
            name: {key: part.to(device) for key, part in getattr(self, name).items()}
            for name in ("others", "past", "content")
        }
        return replace(self, **moved, **parts, **named)
