"""The batch: what a stream yields and every architecture reads.

Shape letters: B examples, K tasks of the schema, F sparse features asked for, N dense features, T history events of
the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class TeacherSignal:
    """What the teacher log knows about the examples.

    Attributes:
        logits: float32 [B, K], raw; 0 where there is no signal.
        mask: bool [B], False on rows older than the first snapshot of the lag.
    """

    logits: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> TeacherSignal:
        """The same signal on a device."""
        return TeacherSignal(
            self.logits.to(device, non_blocking=True), self.mask.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class Batch:
    """B examples of one day, in the order of the stream.

    Attributes:
        day: PROTOCOL's day number, from 1.
        example_id, user_id, timestamp, domain: int64 [B] (timestamp in ms, domain an index into schema.domains).
        sparse: KeyedJaggedTensor of the asked sparse features, stride B.
        dense: float32 [B, N].
        labels: float32 [B, K]; 0 where unknown.
        label_mask: bool [B, K]; False where the label is not matured when the day is trained on.
        history: the users' last events, when asked for.
        teacher: the teacher log's rows, when asked for.
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
    history: Events | None = None
    teacher: TeacherSignal | None = None

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
        return replace(self, **moved, **parts)
