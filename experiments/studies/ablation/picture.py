"""The ablation as a picture: what the full model gains over every other one, with intervals, a panel per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.cells import POOLED
from experiments.report.svg import (
    Scale,
    bounds,
    error_bar,
    line,
    tag,
    text,
    text_width,
    tick_labels,
    ticks,
    title,
)
from experiments.studies.ablation.differences import BEST_PEER
from experiments.studies.ablation.file import Ablation
from experiments.studies.picture import WIDTH, write_picture
from experiments.studies.text import interval_text

_TOP, _ROW, _AXIS, _NOTE, _GAP = 56.0, 20.0, 22.0, 24.0, 24.0
_PEER, _PART, _UNCLEAR = "#d55e00", "#0072b2", "#8a9099"

Row = Mapping[str, Any]


def ablation_picture(study: Ablation, gains: Sequence[Row], path: Path) -> None:
    """Write the picture.

    Args:
        study: the file's content.
        gains: the differences of one split (`differences.difference_rows`).
        path: the SVG file.
    """
    rows = [row for row in gains if _is_shown(row)]
    names = [name for name in (*study.peers, *study.parts) if any(row["against"] == name for row in rows)]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    left = max((text_width(name) for name in names), default=0.0) + 20
    width = (WIDTH - left - _GAP * len(tasks)) / max(len(tasks), 1)
    bottom = _TOP + _ROW * len(names)
    drawn = [text(left - 10, _y(place) + 4, name, text_anchor="end") for place, name in enumerate(names)]
    for number, task in enumerate(tasks):
        start = left + number * (width + _GAP)
        of_task = {row["against"]: row for row in rows if row["task"] == task}
        drawn.append(_panel(study, task, names, of_task, start, start + width, bottom))
    heading = f"{study.data}: pooled AUC that {study.full} gains over each (right of 0: better)"
    note = f"Whiskers: 95 % over users and seeds. Orange: peers, blue: other forms of {study.full}, grey: 0 within."
    write_picture(path, bottom + _AXIS + _NOTE, heading, note, drawn)


def _is_shown(row: Row) -> bool:
    place = row["vertical"] == POOLED and row["measure"] == "auc" and row["against"] != BEST_PEER
    return place and row["low"] is not None


def _y(place: int) -> float:
    return _TOP + _ROW * (place + 0.5)


def _panel(
    study: Ablation,
    task: str,
    names: Sequence[str],
    rows: Mapping[str, Row],
    start: float,
    stop: float,
    bottom: float,
) -> str:
    ends = [0.0, *(row[end] for row in rows.values() for end in ("low", "high"))]
    x = Scale(*bounds(ends), start, stop)
    values = ticks(x.low, x.high, 4)
    grid = [line(x(value), _TOP, x(value), bottom, "grid") for value in values]
    labels = [
        text(x(value), bottom + 16, label, class_="quiet", text_anchor="middle")
        for value, label in zip(values, tick_labels(values), strict=True)
    ]
    zero = line(x(0.0), _TOP - 4, x(0.0), bottom, "zero")
    marks = [_mark(study, rows[name], x, _y(place)) for place, name in enumerate(names) if name in rows]
    return "".join([text(start, _TOP - 12, task), *grid, zero, *labels, *marks])


def _mark(study: Ablation, row: Row, x: Scale, y: float) -> str:
    clear = row["low"] > 0 or row["high"] < 0
    colour = _UNCLEAR if not clear else _PEER if row["against"] in study.peers else _PART
    dot = tag("circle", cx=x(row["gain"]), cy=y, r=4, class_="dot")
    told = title(f"{row['against']}, {row['task']}: {interval_text(row)}")
    return tag("g", told, error_bar(row["low"], row["high"], x, y), dot, style=f"color:{colour}")
