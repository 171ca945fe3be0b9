"""The history study's file. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.checks import check_at_least, check_known, check_name
from distill.findings import Findings
from experiments.studies.files import ComparisonFile, check_teacher_keys, read_study

LENGTH = "teacher.options.history_length"


@dataclass
class Reader:
    """A way to read the history.

    Attributes:
        set: `--set` keys and values of the teacher.
        events: numbers of past events to measure, rising.
        trained: those of them to train on as well; null for all.
    """

    set: dict[str, Any] = field(default_factory=dict)
    events: list[int] = field(default_factory=list)
    trained: list[int] | None = None

    @property
    def lengths(self) -> list[int]:
        """What is trained."""
        return self.events if self.trained is None else self.trained


@dataclass
class History(ComparisonFile):
    """A history file.

    Attributes:
        variants: name to a way to read the history.
        batch_size: examples of a timed step, all of them with all the events.
        rounds: passes over everything that is timed, one after the other, so that a busy moment of the machine meets
            all alike.
        steps: timed training steps of each in a pass, after one that is not timed.
    """

    variants: dict[str, Reader] = field(default_factory=dict)
    batch_size: int = 256
    rounds: int = 3
    steps: int = 3

    @property
    def timed(self) -> list[tuple[str, int]]:
        return [(name, events) for name, reader in self.variants.items() for events in reader.events]

    @property
    def trained(self) -> list[tuple[str, int]]:
        return [(name, events) for name, reader in self.variants.items() for events in reader.lengths]


def read_history(path: Path) -> History:
    """Read a history file.

    Raises:
        ConfigErrors: everything that is wrong with it.
    """
    return read_study(path, History, _check)


def _check(study: History, findings: Findings) -> None:
    for key in ("batch_size", "rounds", "steps"):
        check_at_least(getattr(study, key), 1, (key,), findings)
    if findings.touches(("variants",)):
        return
    if not study.variants:
        findings.add(("variants",), "nothing", "at least one")
    for name, reader in study.variants.items():
        place = ("variants", name)
        check_name(name, place, findings)
        check_teacher_keys(reader.set, (*place, "set"), findings)
        if LENGTH in reader.set:
            findings.add(
                (*place, "set", LENGTH), "the key", "other keys: `events` says how long histories are"
            )
        rising = all(
            later > earlier for earlier, later in zip(reader.events, reader.events[1:], strict=False)
        )
        if not reader.events or min(reader.events) < 1 or not rising:
            findings.add((*place, "events"), str(reader.events), "numbers of events from 1, rising")
        else:
            known = [str(events) for events in reader.events]
            check_known([str(events) for events in reader.lengths], known, (*place, "trained"), findings)
