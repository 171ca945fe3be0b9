"""What a tuning file says: an experiment, and the trials of its teacher and of each channel set. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.findings import Findings, show
from experiments.studies.files import StudyFile, read_study, unequal

TEACHER = "teacher"
OF = "/"
"""Between a student and a channel set."""

_STUDENT_KEYS = ("students.", "channels.")


@dataclass
class Tuning(StudyFile):
    """A tuning file.

    Attributes:
        seeds: one training of each trial per seed; others than the experiment's, which judge what is chosen here.
        trials: `teacher`, a channel set's name (all students) or `<student>/<channel set>` to trials, each a mapping of
            `--set` keys to values.
    """

    seeds: list[int] = field(default_factory=lambda: [100, 101, 102])
    trials: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def of(self, student: str, channel: str) -> Sequence[Mapping[str, Any]]:
        """Trials of a channel set for a student, its own or those of all students; none when there are neither."""
        return self.trials.get(f"{student}{OF}{channel}") or self.trials.get(channel) or []


def read_tuning(path: Path) -> Tuning:
    """Read a tuning file.

    Raises:
        ConfigErrors: no such file, unknown or missing keys, unequal numbers of trials.
    """
    return read_study(path, Tuning, _check)


def _check(tuning: Tuning, findings: Findings) -> None:
    if not tuning.trials:
        findings.add(("trials",), "no trials", "trials of the teacher, of channel sets, or of both")
    of_students = {name: given for name, given in tuning.trials.items() if name != TEACHER}
    for name, trials in of_students.items():
        channel = name.partition(OF)[2]
        if channel in of_students:
            findings.add(
                ("trials", name), f"{show(name)} beside {show(channel)}", "trials of all students, or of each"
            )
        for number, trial in enumerate(trials):
            for key in trial:
                if not key.startswith(_STUDENT_KEYS):
                    # Their teachers are trained once for all trials.
                    place = ("trials", name, number, key)
                    findings.add(place, f"the key {key}", "keys of students and channels")
    counts = unequal(of_students)
    if counts:
        findings.add(("trials",), counts, "the same number for every channel set")
