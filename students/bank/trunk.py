"""The layers of all members as one student, which reads what was looked up for it.

Shape letters: N members, B examples, F fields, D width of the tables, T history events.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from kernels.embedding import Embedded
from students.bank.stacked import stack
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


def trunk_of(student: Student, tensors: Mapping[str, Tensor], given: Given, pooled: bool) -> Student:
    """The student with stacked layers, reading what is given to it."""
    student.tables = given  # type: ignore[assignment]
    if pooled:  # one more feature, to it
        student.history_length, student.history_pooling = 0, None
    stacked = stack(student, tensors)
    assert isinstance(stacked, Student)
    return stacked
