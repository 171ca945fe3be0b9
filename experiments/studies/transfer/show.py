"""The transfer study in the terminal: ratios and scores of every slice, then the bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from distill.cells import POOLED
from distill.claims import WHOLES
from distill.transfer import MACRO, STUDENT, TEACHER
from experiments.quantity import listed
from experiments.studies.text import UNDEFINED, new_table, number, print_table
from experiments.studies.transfer import bars, calibration
from experiments.studies.transfer.run import Transferred
from experiments.studies.tuning_file import OF, read_tuning

Row = Mapping[str, Any]

_CONDITION = ("model", "schedule", "route", "lag")
_SPLITS = {"tune": "development scores (tune days)", "test": "final scores (test days)"}
_LEGEND = """
TR: share of the teacher's gain over `none` that arrives, in NE, in NE after one intercept per vertical and in AUC, sums
over verticals, with gain / teacher's gain in NE as numerator / denominator; undefined where the latter may be 0.
NE, AUC, calibration: pooled rows, means over seeds. Intervals: 95 %, users and seeds. constant: the base rate alone."""
_BARS = {
    bars.OVER_SINGLE: "ah beats single",
    bars.TWICE: "the whole brings at least twice what ah brings, which beats single: all - 2 ah",
    bars.TWICE_SINGLE: "the whole brings at least twice what single brings: all - 2 single",
    bars.OVER_HISTORY: "the whole beats rawid",
    bars.SURFACES: "what the teacher says of other surfaces' rows brings more than its word on the own rows, and more "
    "than those rows' labels",
    bars.HARMLESS: "a corrected teacher does no harm against the teacher as it is",
    bars.ADAPTER: "a corrected teacher is better at the largest lag",
    bars.GROWTH: "what the correction adds grows with the lag",
    bars.SMALL: "the whole beats none and ah on the pooled rows of the small verticals",
    calibration.CALIBRATION: f"calibration within {calibration.LOW}-{calibration.HIGH}, all verticals pooled",
    calibration.AGAINST_NONE: "calibration not farther from 1 than that of none",
}


def print_transfer(found: Transferred, console: Console) -> None:
    """Print a table per condition, student and task, then one per bar with its verdicts."""
    study = found.study
    seeds = listed("seed", study.seeds)
    _say(console, f"{study.data}: {_SPLITS[found.split]}, {seeds}; settings: {_settings(study.tuning)}")
    rows = _select(found.scored.rows, split=found.split)
    ratios = _select(found.scored.ratios, split=found.split, vertical=MACRO)
    for condition in dict.fromkeys(_condition(row) for row in rows if row["role"] == STUDENT):
        for task in dict.fromkeys(row["task"] for row in rows if _condition(row) == condition):
            print_table(_ratios(condition, task, rows, ratios), console)
    judged = _select(found.scored.bars, split=found.split)
    for bar in (name for name in _BARS if _select(judged, bar=name)):
        print_table(_bar(bar, _select(judged, bar=bar)), console)
    _say(console, _LEGEND)
    _say(console, f"Picture: {found.picture}")


def _settings(tuning: str | None) -> str:
    if tuning is None:
        return "defaults, chosen by no trial"
    trials = read_tuning(Path(tuning)).trials
    students = dict.fromkeys(name.split(OF)[0] for name in trials if OF in name)
    found_with = f", found with {', '.join(students)}" if students else ""
    count = len(next(iter(trials.values())))
    return f"the best of {count} trials of every channel set{found_with} ({Path(tuning).name})"


def _ratios(condition: tuple[Any, ...], task: str, rows: Sequence[Row], ratios: Sequence[Row]) -> Table:
    """One student under one condition: its channels between the constant and the teacher."""
    model, schedule, route, lag = condition
    table = new_table(
        f"{model}, {task}: {schedule}, {route}, lag {lag}",
        ["channel"],
        [
            "TR (interval)",
            "gain / teacher's gain",
            "TR after intercept",
            "TR AUC",
            "seeds",
            "NE",
            "AUC",
            "calibration",
        ],
    )
    pooled = _select(rows, task=task, vertical=POOLED)
    mine = [row for row in pooled if row["role"] == STUDENT and _condition(row) == condition]
    if mine:
        table.add_row("constant", *[""] * 5, number(_constant(mine[0]), 4), number(0.5, 4), "")
    for channel in dict.fromkeys(row["channel"] for row in rows if _condition(row) == condition):
        of = [row for row in ratios if _condition(row) == condition and row["channel"] == channel]
        of_measure = {row["measure"]: row for row in _select(of, task=task)}
        scores = _scores(_select(mine, channel=channel))
        table.add_row(channel, *_transfer(of_measure), *scores, style="bold" if channel in WHOLES else "")
    teacher = [row for row in _select(pooled, role=TEACHER) if row["schedule"] == schedule]
    table.add_row("teacher", *[""] * 5, *_scores(teacher))
    return table


def _transfer(of: Mapping[str, Row]) -> list[str]:
    """Cells of one channel; empty for `none`."""
    if not of:
        return [""] * 5
    ne = of["ne"]
    sides = f"{number(ne['delta_vm'], 4)} / {number(ne['delta_fm'], 4)}"
    return [_tr(ne), sides, _tr(of["ne_intercept"]), _tr(of["auc"]), str(ne["seeds"])]


def _tr(row: Row) -> str:
    if row["tr"] is None:
        return bars.UNDEFINED
    return f"{row['tr']:z.3f} [{row['tr_low']:z.3f}, {row['tr_high']:z.3f}]"


def _scores(rows: Sequence[Row]) -> list[str]:
    return [_mean(rows, "ne", 4), _mean(rows, "auc", 4), _mean(rows, "calibration", 3)]


def _mean(rows: Sequence[Row], column: str, digits: int) -> str:
    values = [row[column] for row in rows]
    return number(fmean(values) if values and None not in values else None, digits)


def _constant(row: Row) -> float | None:
    """NE of the base rate as the prediction of every row."""
    if row["constant_logloss"] is None or not row["ne"]:
        return None
    return row["constant_logloss"] * row["ne"] / row["logloss"]


def _bar(bar: str, rows: Sequence[Row]) -> Table:
    table = new_table(
        _BARS[bar],
        ["verdict", "student", "condition", "channel", "task", "measure"],
        ["value (interval)", "numerator", "denominator", "ratio", "seeds"],
    )
    for row in rows:
        channel = row["channel"] + (f" - {row['against']}" if row["against"] else "")
        condition = f"{row['schedule']}, {row['route']}, lag {row['lag']}"
        names = [row["verdict"], row["model"], condition, channel, row["task"], row["measure"]]
        sides = [number(row[name], 4) for name in ("numerator", "denominator")]
        table.add_row(*names, _value(row), *sides, _ratio(row), str(row["seeds"] or UNDEFINED))
    return table


def _value(row: Row) -> str:
    if row["value"] is None:
        return UNDEFINED
    if row["low"] is None:
        return f"{row['value']:+z.4f}"
    return f"{row['value']:+z.4f} [{row['low']:+z.4f}, {row['high']:+z.4f}]"


def _ratio(row: Row) -> str:
    """Of two gains; undefined, never a number, where the second is none."""
    if row["ratio"] is not None:
        return f"{row['ratio']:z.2f}"
    return bars.UNDEFINED if row["bar"] in (bars.TWICE, bars.TWICE_SINGLE) else UNDEFINED


def _condition(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _CONDITION)


def _select(rows: Sequence[Row], **fields: str) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
