"""The layers of all members as one student, which reads what was looked up for it.

Shape letters: N members, B examples, F fields, D width of the tables, T history events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kernels.embedding import Embedded
from students.bank.stacked import FoldedBatch, stack
from students.base import Student


class Given(nn.Module):
    """Stands where a student has its tables: what was looked up is set before the student asks for it."""

    embedded: Embedded

    def forward(self, *ids: object) -> Embedded:
        return self.embedded


def fold(embedded: Embedded) -> Embedded:
    """Features [N * B, F, D] and events [N * T, D]."""
    features, events = embedded.features, embedded.events
    return Embedded(
        features.reshape(-1, *features.shape[-2:]),
        None if events is None else events.reshape(-1, events.size(-1)),
    )


def pooled_by_tables(student: Student) -> str | None:
    """How the history is pooled, where the look-up can do it; None without, or where the student reads the events."""
    of_base = all(
        getattr(getattr(student, name), "__func__", None) is getattr(Student, name) for name in _READING
    )
    whole = student.own_history == student.history_length and not student.extra_fields
    return student.history_pooling if of_base and whole else None


_READING = ("fields", "look_up", "own_events", "given_fields")
"""What of a student lies between the look-up and its layers."""


def trunk_of(
    student: Student, tensors: Mapping[str, Tensor], members: int, given: Given, pooled: bool
) -> Student:
    """The student with stacked layers, reading what is given to it.

    Args:
        student: of one member; it is changed.
        tensors: its parameters, those of all members by name.
        members: N.
        given: stands in the place of its tables.
        pooled: the look-up pools the history.

    Raises:
        UserError: a layer that has no stacked form.
    """
    student.tables = given  # type: ignore[assignment]
    if pooled:  # one more feature, to it
        student.history_length, student.history_pooling = 0, None
    stacked = stack(student, tensors)
    assert isinstance(stacked, Student)
    for module in (*stacked.inputs.values(), *stacked.event_inputs.values()):
        _read_once(module, members)
    return stacked


def _read_once(module: nn.Module, members: int) -> None:
    """Let a module that makes fields read the batch of one member, and the rows of all members as [N, rows, D]."""

    def unfold(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        batch, *rows = arguments
        assert isinstance(batch, FoldedBatch)
        return batch.once, *(of_all.unflatten(0, (members, -1)) for of_all in rows)

    def fold_fields(module: nn.Module, arguments: tuple[Any, ...], fields: Tensor) -> Tensor:
        return fields.expand(members, *fields.shape[-3:]).flatten(0, 1)

    module.register_forward_pre_hook(unfold)
    module.register_forward_hook(fold_fields)
