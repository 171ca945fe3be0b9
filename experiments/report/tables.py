"""The numbers of the page, as the template prints them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from distill.interval import Estimate
from distill.results import Row
from distill.transfer import MACRO
from experiments.curves import Band
from experiments.recorded import RecordedRun
from experiments.slices import SliceTable
from experiments.summary import Entry, Panel, channel_order

COLUMNS = ("ne", "logloss", "auc", "gauc", "calibration")
UNDEFINED = "–"


@dataclass(frozen=True)
class ScoreRow:
    """One model of a score table.

    Attributes:
        entry: its scores.
        gain: NE of `none` minus its own; None for `none` and where it is not measured.
    """

    entry: Entry
    gain: Estimate | None


@dataclass(frozen=True)
class ScoreTable:
    """Everything scored on one (vertical, task).

    Attributes:
        vertical, task: what.
        facts: what the rows say of the labels themselves.
        rows: students by model, then teachers and the floor.
        constant: scores of predicting the base rate, by column.
        oracle: NE of the true probabilities, None for data whose truth nobody knows.
    """

    vertical: str
    task: str
    facts: str
    rows: list[ScoreRow]
    constant: dict[str, float]
    oracle: float | None


@dataclass(frozen=True)
class SliceGroup:
    """A student's slices of one task, its verticals below each other.

    Attributes:
        model, task: what.
        labels: columns, those of all of its verticals.
        tables: one per vertical.
    """

    model: str
    task: str
    labels: list[str]
    tables: list[SliceTable]


def score_tables(panels: Iterable[Panel]) -> list[ScoreTable]:
    """One table per (vertical, task), in the order of the panels."""
    by_place = groupby(panels, key=lambda panel: (panel.vertical, panel.task))
    return [_table(vertical, task, list(group)) for (vertical, task), group in by_place]


def spread(value: Band | None, digits: int = 4) -> str:
    """`0.8312 ± 0.0010`; the standard deviation is left out with one seed."""
    if value is None:
        return UNDEFINED
    return f"{value.mean:.{digits}f}" + (f" ± {value.sd:.{digits}f}" if value.sd else "")


def signed(value: float, digits: int = 4) -> str:
    """`+0.0123` or `−0.0123`."""
    return f"{value:+z.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    """`[−0.0012, +0.0034]`; empty when there is none."""
    return "" if low is None or high is None else f"[{signed(low, digits)}, {signed(high, digits)}]"


def transfer_table(run: RecordedRun) -> tuple[list[Row], list[Row]]:
    """Transfer rows of the split to judge by: those over all verticals, those of each; by task, model
    and channel.
    """
    rows = [row for row in run.transfer if row["split"] == run.split]
    order = channel_order(row["channel"] for row in rows)
    rows.sort(key=lambda row: (row["task"], row["model"], order.index(row["channel"])))
    return [row for row in rows if row["vertical"] == MACRO], [
        row for row in rows if row["vertical"] != MACRO
    ]


def cost_rows(run: RecordedRun, panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """One row per timed cell, in the order of the panels: model, vertical, label and `RecordedRun.cost`."""
    entries = {entry.cell_id: (panel, entry) for panel in panels for entry in panel.entries}
    rows = []
    for cell_id, (panel, entry) in entries.items():
        cost = run.cost(cell_id)
        if cost is not None:
            vertical = panel.vertical if entry.is_student else "all"
            name = panel.model if entry.is_student else entry.model
            rows.append({"model": name, "vertical": vertical, "label": entry.label, **cost})
    return rows


def slice_groups(tables: Iterable[SliceTable]) -> list[SliceGroup]:
    """Slices by student and task, in the order they come in."""
    of: dict[tuple[str, str], list[SliceTable]] = defaultdict(list)
    for table in tables:
        of[table.model, table.task].append(table)
    return [
        SliceGroup(model, task, list(dict.fromkeys(e.label for t in group for e in t.columns)), group)
        for (model, task), group in of.items()
    ]


def _table(vertical: str, task: str, panels: list[Panel]) -> ScoreTable:
    students = [entry for panel in panels for entry in panel.students]
    others = panels[0].others
    rows = [entry.rows[0] for entry in (*students, *others)]
    first = rows[0]
    constant = {"logloss": first["constant_logloss"], "auc": 0.5}
    scored = next((entry for entry in (*students, *others) if entry.score("ne")), None)
    if scored is not None:
        loss, ne = scored.score("logloss"), scored.score("ne")
        assert loss is not None and ne is not None
        constant["ne"] = first["constant_logloss"] * ne.mean / loss.mean
    return ScoreTable(
        vertical=vertical,
        task=task,
        facts=_facts(rows),
        rows=[_score_row(entry, len(panels) == 1 or entry.is_student) for entry in (*students, *others)],
        constant=constant,
        oracle=first["oracle_ne"],
    )


def _score_row(entry: Entry, one_reference: bool) -> ScoreRow:
    """A teacher's gain is over the one `none` that stands here; beside several it has none of its own."""
    gain = entry.gains.get("ne")
    return ScoreRow(entry, gain if one_reference and gain is not None and gain.value is not None else None)


def _facts(rows: list[Row]) -> str:
    """Rows, positives and base rate; a range where models were scored on different rows."""
    examples, positives = (_range([row[name] for row in rows]) for name in ("examples", "positives"))
    return f"{examples} examples, {positives} positives, base rate {rows[0]['base_rate']:.4f}"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
