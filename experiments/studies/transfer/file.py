"""The transfer study's file. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distill.checks import check_name, check_unique
from distill.findings import Findings, show
from experiments.studies.files import ComparisonFile, read_study

CORE = "core"
"""The slice of every channel set of every student, direct, at the experiment's own schedule."""

_SCHEDULE = "schedule."
_DAYS = ("schedule.tune_days", "schedule.test_days")


@dataclass
class Slice:
    """Some channel sets under another condition than the core's.

    Attributes:
        channels: channel sets; `none` is counted in every slice, and trained again only where it would differ.
        route: whom the students learn from: direct, the teacher; hierarchical, the domain teacher of their surface.
        set: `--set` keys of the schedule and their values, such as schedule.lag.
    """

    channels: list[str] = field(default_factory=list)
    route: Literal["direct", "hierarchical"] = "direct"
    set: dict[str, Any] = field(default_factory=dict)


@dataclass
class Transfer(ComparisonFile):
    """A transfer study's file; its table is named `..._<data>.csv`, its ratios, bars and picture lie beside it.

    Attributes:
        tuning: the tuning file that chose the settings, relative to this file; null while they are defaults.
        small: the small verticals, whose pooled rows are judged by themselves; empty for none.
        slices: name to what is trained beside the core, which is every channel set of every student, direct.
    """

    tuning: str | None = None
    small: list[str] = field(default_factory=list)
    slices: dict[str, Slice] = field(default_factory=dict)

    def beside(self, what: str) -> Path:
        """`transfer_kuairand.csv` and `ratio` as `transfer_ratio_kuairand.csv`."""
        table = Path(self.table)
        return table.with_name(f"{table.stem.removesuffix(self.data)}{what}_{self.data}{table.suffix}")


def read_transfer(path: Path) -> Transfer:
    """Read a transfer study's file.

    Returns:
        The study; `experiment` and `tuning` are absolute.

    Raises:
        ConfigErrors: everything that is wrong with it.
    """
    study = read_study(path, Transfer, _check)
    if study.tuning is not None:
        study.tuning = str((path.parent / study.tuning).resolve())
    return study


def _check(study: Transfer, findings: Findings) -> None:
    table = Path(study.table)
    if table.suffix != ".csv" or not table.stem.endswith(f"_{study.data}"):
        findings.add(
            ("table",), show(study.table), f"a file named by its data set, such as transfer_{study.data}.csv"
        )
    check_unique(study.small, ("small",), findings)
    if study.tuning is not None and not (findings.folder(("tuning",)) / study.tuning).is_file():
        findings.add(("tuning",), f"{show(study.tuning)}, which is not there", "a tuning file, or null")
    for name, of_slice in study.slices.items():
        _check_slice(name, of_slice, findings)


def _check_slice(name: str, of_slice: Slice, findings: Findings) -> None:
    place = ("slices", name)
    check_name(name, place, findings)
    if name == CORE:
        findings.add(place, show(name), "another name: the core is every channel set of every student")
    if not of_slice.channels:
        findings.add((*place, "channels"), "an empty list", "at least one channel set")
    check_unique(of_slice.channels, (*place, "channels"), findings)
    for key in of_slice.set:
        if not key.startswith(_SCHEDULE) or key in _DAYS:
            allowed = "keys of the schedule but for the days that are scored, such as schedule.lag"
            findings.add((*place, "set", key), f"the key {key}", allowed)
