"""The ablation in the terminal: scores, what the full model gains over each, what that says. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from distill.cells import POOLED
from experiments.quantity import listed
from experiments.studies.ablation.differences import BEST_PEER, SHARE
from experiments.studies.ablation.run import Ablated
from experiments.studies.scoring import ORACLE
from experiments.studies.text import (
    UNDEFINED,
    gain_text,
    interval_text,
    large,
    new_table,
    number,
    print_table,
)

WORST_SURFACE = -0.005
"""Bar: no surface's interval of the AUC gain over the best peer lies below this."""

Row = Mapping[str, Any]


def print_ablation(found: Ablated, console: Console) -> None:
    """Print one table of pooled scores and one of gains by surface per task, then the verdicts."""
    study = found.study
    seeds = listed("seed", study.seeds)
    console.print(f"{study.data}: {_SPLITS[found.split]}, {seeds}", highlight=False)
    for name, trial in found.chosen.items():
        console.print(f"chosen for {name}: {trial}", highlight=False, markup=False, soft_wrap=True)
    for task in dict.fromkeys(row["task"] for row in found.rows):
        print_table(_scores(found, task), console)
        print_table(_surfaces(found, task), console)
    console.print()
    for line in verdicts(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_LEGEND.format(full=study.full), highlight=False, markup=False, soft_wrap=True)
    console.print(f"Picture: {found.picture}", highlight=False, markup=False, soft_wrap=True)


_SPLITS = {"tune": "development scores (tune days)", "test": "final scores (test days)"}
_LEGEND = """
gain: of {full} over the other, above 0 is better; * its 95 % interval (paired by user and seed) excludes 0."""


def verdicts(found: Ablated) -> Iterator[str]:
    """One line per bar of the ablation: `met` or `MISSED`; then what each part is good for."""
    gains = [row for row in found.differences if row["split"] == found.split]
    yield from _best_peer(gains)
    yield from _worst_surfaces(gains)
    yield from _truth(gains)
    for name in found.study.parts:
        yield _part(name, gains)


def _best_peer(gains: Sequence[Row]) -> Iterator[str]:
    for row in _select(gains, against=BEST_PEER, vertical=POOLED, measure="auc"):
        met = row["low"] is not None and row["low"] > 0
        yield (
            f"{_word(met)} pooled AUC, {row['task']}: {interval_text(row)} over {row['peer']}, the best tuned peer"
        )


def _worst_surfaces(gains: Sequence[Row]) -> Iterator[str]:
    rows = [
        row
        for row in _select(gains, against=BEST_PEER, measure="auc")
        if row["vertical"] != POOLED and row["high"] is not None
    ]
    bad = [row for row in rows if row["high"] < WORST_SURFACE]
    for row in bad:
        yield f"{_word(False)} AUC on {row['vertical']}, {row['task']}: {interval_text(row)} over {row['peer']}"
    if rows and not bad:
        widest = max(rows, key=lambda row: row["high"] - row["low"])
        half = (widest["high"] - widest["low"]) / 2
        yield (
            f"{_word(True)} no surface's interval of the AUC gain over the best peer lies below {WORST_SURFACE} "
            f"(the widest, {widest['vertical']}, {widest['task']}: ±{half:.4f})"
        )


def _truth(gains: Sequence[Row]) -> Iterator[str]:
    for row in _select(gains, against=ORACLE, vertical=POOLED):
        distance = {"gain": -row["gain"], "low": -row["high"], "high": -row["low"]}
        yield f"       distance to the truth, {row['task']}: NE of {row['variant']} {interval_text(distance)}"
    for row in _select(gains, measure=SHARE, vertical=POOLED):
        met = row["low"] is not None and row["low"] > 0
        told = interval_text(row, digits=3) if row["gain"] is not None else UNDEFINED
        yield f"{_word(met)} share of the distance of {row['peer']} to the truth that goes, {row['task']}: {told}"


def _part(name: str, gains: Sequence[Row]) -> str:
    """What taking a part away costs on the pooled rows."""
    rows = [r for r in _select(gains, against=name, vertical=POOLED) if r["low"] is not None]
    better, worse = any(r["low"] > 0 for r in rows), any(r["high"] < 0 for r in rows)
    word = {(True, False): "costs", (False, True): "HELPS", (True, True): "costs and helps"}
    told = ", ".join(f"{r['task']} {r['measure'].upper()} {gain_text(r).strip()}" for r in rows)
    return f"{name}: {word.get((better, worse), 'makes no clear difference')} ({told})"


def _scores(found: Ablated, task: str) -> Table:
    table = new_table(
        f"{POOLED}, {task}",
        ["variant"],
        ["NE", "gain", "AUC", "gain", "calibration", "parameters", "FLOPs/example", "CPU s"],
    )
    gains = [row for row in found.differences if row["split"] == found.split]
    for name in found.study.variants:
        rows = _select(found.rows, variant=name, vertical=POOLED, task=task, split=found.split)
        of = {row["measure"]: row for row in _select(gains, against=name, vertical=POOLED, task=task)}
        table.add_row(
            name,
            _mean(rows, "ne", 4),
            gain_text(of.get("ne")),
            _mean(rows, "auc", 4),
            gain_text(of.get("auc")),
            _mean(rows, "calibration", 3),
            large(_of(rows, "params")),
            large(_of(rows, "flops_per_example")),
            _mean(rows, "cpu_seconds", 0),
            style="bold" if name == found.study.full else "",
        )
    return table


def _surfaces(found: Ablated, task: str) -> Table:
    """Gains in AUC, a column per surface."""
    gains = _select(found.differences, split=found.split, task=task, measure="auc")
    verticals = list(dict.fromkeys(row["vertical"] for row in gains))
    table = new_table(f"AUC gain of {found.study.full} by surface, {task}", ["over"], verticals)
    for against in dict.fromkeys(row["against"] for row in gains):
        of = {row["vertical"]: row for row in _select(gains, against=against)}
        peer = next(iter(of.values()))["peer"]
        name = f"best peer ({peer})" if peer else against
        table.add_row(name, *(gain_text(of.get(vertical)) for vertical in verticals))
    return table


def _select(rows: Sequence[Row], **fields: str) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def _of(rows: Sequence[Row], column: str) -> float | None:
    """Mean over seeds; None when a seed has none."""
    values = [row[column] for row in rows]
    return fmean(values) if values and None not in values else None


def _mean(rows: Sequence[Row], column: str, digits: int) -> str:
    return number(_of(rows, column), digits)


def _word(met: bool) -> str:
    return "met   " if met else "MISSED"
