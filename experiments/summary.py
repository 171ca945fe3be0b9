"""Scores of a run per (vertical, task): means over seeds, gains over `none`, in the order to show them.

Free of torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from distill.cells import POOLED
from distill.interval import Estimate
from distill.predictions import CellPredictions
from distill.results import Row
from distill.transfer import differences
from experiments.curves import Band, band
from experiments.recorded import NONE, STUDENT, TEACHER, RecordedRun

Key = tuple[str, str, str]
"""(vertical, task, measure)."""

Gains = Mapping[tuple[str, str], Mapping[Key, Estimate | None]]
"""(cell_id of `none`, cell_id of x) to L_none - L_x: above 0 means that x is the better one."""

CHANNELS = ("single", "ah", "ah_adapter", "pfd", "fitnets", "current", "rawid", "repr", "sharing", "all")
"""The protocol's channels in order; a channel set of another name comes after them."""

CONDITIONS = ("schedule", "inputs", "route", "lag")
_OF_NONE = ("schedule", "inputs", "lag")
"""`none` has no route: nothing reaches it."""


@dataclass(frozen=True)
class Entry:
    """One model on one (vertical, task): its rows of results.json, one per seed.

    Attributes:
        rows: at least one; they differ in seed and scores alone.
        label: its name beside the others: `teacher`, or the channel, with its route where it has several.
        gains: measure to L_none - L_x; empty for `none` itself and on pooled rows.
    """

    rows: list[Row]
    label: str
    gains: dict[str, Estimate] = field(default_factory=dict)

    @property
    def cell_id(self) -> str:
        return self.rows[0]["cell_id"]

    @property
    def model(self) -> str:
        return self.rows[0]["model"]

    @property
    def role(self) -> str:
        return self.rows[0]["role"]

    @property
    def channel(self) -> str:
        return self.rows[0]["channel"]

    @property
    def is_student(self) -> bool:
        return self.role == STUDENT

    @property
    def is_none(self) -> bool:
        return self.is_student and self.channel == NONE

    @property
    def loses_to_constant(self) -> bool:
        """True when predicting the base rate on the same rows has the lower log-loss."""
        loss, constant = self.score("logloss"), self.score("constant_logloss")
        return loss is not None and constant is not None and loss.mean > constant.mean

    def score(self, column: str) -> Band | None:
        """Mean and standard deviation over seeds; None when a seed has no such score."""
        return band(row[column] for row in self.rows)


@dataclass(frozen=True)
class Panel:
    """A student with its channels on one (vertical, task), and the teachers it is measured against.

    Attributes:
        vertical: a vertical's name or "pooled".
        task: which outcome.
        model: the student, with its conditions where it has several; empty where only teachers are scored.
        entries: `none`, the other channels, teachers.
    """

    vertical: str
    task: str
    model: str
    entries: list[Entry]

    @property
    def none(self) -> Entry | None:
        return next((entry for entry in self.entries if entry.is_none), None)

    @property
    def students(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.is_student]

    @property
    def others(self) -> list[Entry]:
        """Teachers first, then models of other roles."""
        return [entry for entry in self.entries if not entry.is_student]


def panels(run: RecordedRun, gains: Gains) -> list[Panel]:
    """The panels of the split to judge by; verticals in the order of the rows, "pooled" last.

    Args:
        run: a scored run.
        gains: `paired_gains(run)`; may be empty.
    """
    cells: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in run.rows:
        if row["split"] == run.split:
            cells[row["vertical"], row["task"]][row["cell_id"]].append(row)
    order = list(dict.fromkeys(vertical for vertical, _ in cells))
    keys = sorted(cells, key=lambda key: (key[0] == POOLED, order.index(key[0])))
    return [panel for key in keys for panel in _panels(run, *key, list(cells[key].values()), gains)]


def paired_gains(run: RecordedRun) -> Gains:
    """L_none - L_x of every student and teacher over the `none` it belongs to, with 95 % intervals.

    Args:
        run: a scored run; its predictions are read.

    Raises:
        ScoreError, PredictionError: see `distill.transfer.differences`.
    """
    sources = list(run.predictions())
    pairs = [(base, other) for base in sources for other in sources if _belongs(other, base)]
    verticals = sorted({row["vertical"] for row in run.rows} - {POOLED})
    rates: dict[str, dict[str, float]] = defaultdict(dict)
    for row in run.rows:
        rates[row["vertical"]][row["task"]] = row["base_rate"]
    found = differences(pairs, verticals, rates, run.split) if pairs else []
    ids = [(base.cell.cell_id, other.cell.cell_id) for base, other in pairs]
    return dict(zip(ids, found, strict=True))


def channel_order(names: Iterable[str]) -> list[str]:
    """`none`, the protocol's channels, then others by name; each once."""
    known = (NONE, *CHANNELS)
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))


def conditions(run: RecordedRun, row: Row, names: Iterable[str]) -> list[str]:
    """Of these fields of a row (of CONDITIONS), those that its model has several of in this run, as text."""
    same = [cell for cell in run.cells if (cell.role, cell.model) == (STUDENT, row["model"])]
    differ = [name for name in names if len({getattr(cell, name) for cell in same}) > 1]
    return [f"lag {row['lag']}" if name == "lag" else str(row[name]) for name in differ]


def _belongs(other: CellPredictions, base: CellPredictions) -> bool:
    """True when `base` is the `none` that `other` is compared with."""
    x, none = other.cell, base.cell
    if none.role != STUDENT or none.channel != NONE or x == none:
        return False
    if x.role == TEACHER:
        return x.schedule == none.schedule
    same = ("role", "model", "vertical", *_OF_NONE)
    return x.channel != NONE and all(getattr(x, name) == getattr(none, name) for name in same)


def _panels(run: RecordedRun, vertical: str, task: str, cells: list[list[Row]], gains: Gains) -> list[Panel]:
    students: dict[tuple, list[list[Row]]] = defaultdict(list)
    for rows in cells:
        if rows[0]["role"] == STUDENT:
            students[tuple(rows[0][name] for name in ("model", *_OF_NONE))].append(rows)
    others = [rows for rows in cells if rows[0]["role"] != STUDENT]
    others.sort(key=lambda rows: rows[0]["role"] != TEACHER)
    if not students:
        return [Panel(vertical, task, "", [Entry(rows, rows[0]["role"]) for rows in others])]
    found = []
    for members in students.values():
        order = channel_order(rows[0]["channel"] for rows in members)
        members.sort(key=lambda rows: (order.index(rows[0]["channel"]), rows[0]["route"]))
        first = members[0][0]
        beside = [rows for rows in others if rows[0]["schedule"] == first["schedule"]]
        name = " · ".join([first["model"], *conditions(run, first, _OF_NONE)])
        entries = [_entry(run, rows, first["cell_id"], gains) for rows in (*members, *beside)]
        found.append(Panel(vertical, task, name, entries))
    return found


def _entry(run: RecordedRun, rows: list[Row], none_id: str, gains: Gains) -> Entry:
    first = rows[0]
    key = (first["vertical"], first["task"])
    of_pair = gains.get((none_id, first["cell_id"]), {})
    found = {
        measure: estimate
        for (*place, measure), estimate in of_pair.items()
        if tuple(place) == key and estimate
    }
    if first["role"] != STUDENT:
        return Entry(rows, first["role"], found)
    return Entry(rows, " · ".join([first["channel"], *conditions(run, first, ["route"])]), found)
