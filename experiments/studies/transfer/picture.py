"""The study as a picture: how much of the teacher's gain each channel brings to the student, a row per channel.

A block per student (thin, rich), a panel per task. The dashed line is twice what the auxiliary head alone brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.transfer import MACRO
from experiments.pipeline.experiment import DIRECT, Experiment
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
from experiments.studies.picture import WIDTH, write_picture
from experiments.studies.transfer.file import Transfer

MEASURE = "ne"
"""The loss whose transfer ratio is drawn."""

PLAIN = "ah"
CONTROLS = ("single", "pfd", "fitnets", "current", "rawid", "single_surfaces", "labels_surfaces")
_INPUTS = {"thin": "no history of its own", "rich": "reads the user's history itself"}
_MEANING = {
    "single": "soft labels, on the one head",
    "ah": "soft labels, on a second head",
    "ah_adapter": "ah, corrected by fresh labels",
    "pfd": "a teacher with more features",
    "fitnets": "hidden layers imitated",
    "current": "embedding of this example",
    "rawid": "raw ids of earlier ones",
    "repr": "embeddings of earlier ones",
    "sharing": "the teacher's tables",
    "all": "ah_adapter, repr, sharing",
    "ah_surfaces": "ah, on other surfaces' rows too",
    "single_surfaces": "single, on other surfaces' rows too",
    "labels_surfaces": "labels of all surfaces, no teacher",
    "adapter_surfaces": "single_surfaces, corrected",
    "all_surfaces": "everything, on those rows too",
    "all_corrected": "the same, teacher corrected",
    "all_levelled": "the same, level of own labels",
    "all_rows": "the same, and those rows' labels",
}
_COLOURS = {"ah": "#d55e00", "control": "#8a9099", "other": "#0072b2"}
_TOP, _HEAD, _ROW, _AXIS, _GAP, _VALUE, _NOTE = 32.0, 46.0, 20.0, 22.0, 14.0, 40.0, 40.0
_QUIET = 0.86  # width of quiet letters beside the others'
_LEAST, _MOST = -1.0, 2.5  # beyond them an interval ends in an arrow

Row = Mapping[str, Any]
Block = Mapping[tuple[str, str], Row]
"""(channel, task) to the row of one student."""


def transfer_picture(study: Transfer, experiment: Experiment, ratios: Sequence[Row], path: Path) -> None:
    """Write the picture of the core.

    Args:
        study: the file's content.
        experiment: the core.
        ratios: of one split (`distill.results.TRANSFER_COLUMNS`).
        path: the SVG file.
    """
    schedule = experiment.config.schedule
    rows = [row for row in ratios if _is_shown(row, schedule.kind, schedule.lag)]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    drawn, top = [], _TOP
    for model in dict.fromkeys(row["model"] for row in rows):
        block = {(row["channel"], row["task"]): row for row in rows if row["model"] == model}
        names = [name for name in experiment.config.channels if any(channel == name for channel, _ in block)]
        inputs = next(iter(block.values()))["inputs"]
        drawn.append(text(8, top + 12, f"{model}: {_INPUTS[inputs]}", class_="title"))
        drawn.append(_block(block, names, tasks, top + _HEAD))
        top += _HEAD + _ROW * len(names) + _AXIS + _GAP
    heading = f"{study.data}: how much of the teacher's gain reaches the students (0: nothing, 1: all of it)"
    drawn.append(text(8, top + 14, _COLOUR_NOTE, class_="quiet"))
    write_picture(path, top + _NOTE, heading, _NOTE_TEXT, drawn)


_COLOUR_NOTE = (
    "Orange: ah, plain distillation; dashed: twice what it brings. Blue: further channels. Grey: controls."
)
_NOTE_TEXT = (
    "Transfer ratio in normalised entropy, summed over verticals. Whiskers: 95 % over users and seeds."
)


def _is_shown(row: Row, kind: str, lag: int) -> bool:
    place = row["vertical"] == MACRO and row["measure"] == MEASURE
    return place and (row["schedule"], row["lag"], row["route"]) == (kind, lag, DIRECT)


def _block(block: Block, names: Sequence[str], tasks: Sequence[str], top: float) -> str:
    """The panels of one student, side by side, with the channels' names to the left."""
    left = 8 + max(text_width(name) for name in names) + 8
    labels = [text(8, _y(top, place) + 4, name) for place, name in enumerate(names)]
    meanings = [
        text(left, _y(top, place) + 4, _MEANING.get(name, ""), class_="quiet")
        for place, name in enumerate(names)
    ]
    left += max(_QUIET * text_width(_MEANING.get(name, "")) for name in names) + 14
    width = (WIDTH - left) / len(tasks) - _VALUE
    panels = []
    for number, task in enumerate(tasks):
        start = left + number * (width + _VALUE)
        of_task = {name: block[name, task] for name in names if (name, task) in block}
        panels.append(_panel(task, names, of_task, (start, start + width), top))
    return "".join([*labels, *meanings, *panels])


def _y(top: float, place: int) -> float:
    return top + _ROW * (place + 0.5)


def _panel(
    task: str, names: Sequence[str], rows: Mapping[str, Row], ends: tuple[float, float], top: float
) -> str:
    bottom = top + _ROW * len(names)
    known = {name: row for name, row in rows.items() if row["tr"] is not None}
    parts = [text(ends[0], top - 18, task)]
    if not known:
        lines = [text(ends[0], top + 16 * (n + 1), said, class_="quiet") for n, said in enumerate(_UNKNOWN)]
        return "".join([*parts, *lines])
    twice = 2 * known[PLAIN]["tr"] if PLAIN in known and known[PLAIN]["tr"] > 0 else None
    reach = [
        row[end] for row in known.values() for end in ("tr", "tr_low", "tr_high") if row[end] is not None
    ]
    held = [
        min(max(value, _LEAST), _MOST) for value in [0.0, 1.0, *reach, *([] if twice is None else [twice])]
    ]
    x = Scale(*bounds(held, 0.04), *ends)
    marks = ticks(x.low, x.high, 4)
    parts += [line(x(value), top, x(value), bottom, "grid") for value in marks]
    parts += [line(x(value), top - 4, x(value), bottom, "zero") for value in (0.0, 1.0)]
    parts += [
        text(x(value), bottom + 15, label, class_="quiet", text_anchor="middle")
        for value, label in zip(marks, tick_labels(marks), strict=True)
    ]
    if twice is not None and twice <= x.high:
        parts.append(tag("g", _twice(x(twice), top, bottom), style=f"color:{_COLOURS[PLAIN]}"))
    parts += [_mark(known[name], x, _y(top, place)) for place, name in enumerate(names) if name in known]
    return "".join(parts)


_UNKNOWN = ("No ratio: the teacher's own gain", "over these students may be 0.")


def _twice(x: float, top: float, bottom: float) -> str:
    label = text(x, top - 6, "2 × ah", class_="quiet", text_anchor="middle")
    return line(x, top - 2, x, bottom, "curve") + label


def _mark(row: Row, x: Scale, y: float) -> str:
    name, value = row["channel"], row["tr"]
    colour = _COLOURS.get(name, _COLOURS["control" if name in CONTROLS else "other"])
    told = f"{value:z.2f}".replace("-", "−")
    parts = [
        title(
            f"{name}, {row['task']}: {told} [{row['tr_low']:z.2f}, {row['tr_high']:z.2f}], {row['seeds']} seeds"
        )
    ]
    parts.append(error_bar(row["tr_low"], row["tr_high"], x, y))
    parts.append(tag("circle", cx=x(x.held(value)), cy=y, r=4, class_="dot"))
    parts.append(text(x.stop + 4, y + 4, told, class_="quiet"))
    return tag("g", *parts, style=f"color:{colour}")
