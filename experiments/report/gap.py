"""The first picture: how far every channel brings a student from `none` towards the teacher."""

from __future__ import annotations

from experiments.recorded import FLOOR, TEACHER
from experiments.report.series import style_of
from experiments.report.svg import (
    Scale,
    bounds,
    error_bar,
    line,
    picture,
    tag,
    text,
    text_width,
    tick_labels,
    ticks,
    title,
)
from experiments.summary import Entry, Panel

_WIDTH, _RIGHT = 360.0, 302.0
_TOP, _ROW, _AXIS = 14.0, 24.0, 26.0
_MARGIN = 14.0
_RADIUS = 4.5
_BETTER = "← better"


def gap_picture(panel: Panel, channels: list[str]) -> str:
    """Dots of NE, one row per model; whiskers are the interval of the difference to `none`.

    Args:
        panel: a student, its channels, the teacher, on one (vertical, task).
        channels: all channel sets of the run, for colours.
    """
    entries = [entry for entry in panel.entries if entry.role != FLOOR and entry.score("ne")]
    bottom = _TOP + _ROW * len(entries)
    left = max(text_width(name) for name in (_BETTER, *(entry.label for entry in entries))) + _MARGIN
    scale = _scale(panel, entries, left)
    rows = [_row(panel, entry, number, scale, channels) for number, entry in enumerate(entries)]
    return picture(
        _WIDTH,
        bottom + _AXIS,
        _description(panel, entries),
        _band(panel, scale, bottom),
        _axis(scale, bottom),
        *rows,
    )


def whisker(panel: Panel, entry: Entry) -> tuple[float, float] | None:
    """NE of `none` minus the interval of the entry's gain; None where there is no interval."""
    gain = entry.gains.get("ne")
    if gain is None or gain.low is None or gain.high is None or panel.none is None:
        return None
    none = _mean(panel.none)
    return none - gain.high, none - gain.low


def _scale(panel: Panel, entries: list[Entry], left: float) -> Scale:
    """Holds every dot; a whisker may add as much again on either side and is cut off beyond."""
    dots = [_mean(entry) for entry in entries]
    room = (max(dots) - min(dots)) or abs(dots[0]) * 0.02
    low, high = min(dots) - room, max(dots) + room
    ends = [min(max(end, low), high) for entry in entries for end in whisker(panel, entry) or ()]
    return Scale(*bounds([*dots, *ends]), left, _RIGHT)


def _band(panel: Panel, scale: Scale, bottom: float) -> str:
    """From the teacher to `none`: what there is to be gained."""
    none = panel.none
    teacher = next((entry for entry in panel.others if entry.role == TEACHER), None)
    if none is None or teacher is None:
        return ""
    ends = sorted((scale(_mean(none)), scale(_mean(teacher))))
    area = tag("rect", x=ends[0], y=_TOP - 6, width=ends[1] - ends[0], height=bottom - _TOP + 6, class_="gap")
    return area + "".join(line(end, _TOP - 6, end, bottom, "edge") for end in ends)


def _axis(scale: Scale, bottom: float) -> str:
    values = ticks(scale.low, scale.high, 3)
    marks = [line(scale(value), bottom, scale(value), bottom + 4, "axis") for value in values]
    labels = [
        text(scale(value), bottom + 16, label, class_="tick", text_anchor="middle")
        for value, label in zip(values, tick_labels(values), strict=True)
    ]
    better = text(0, bottom + 16, _BETTER, class_="tick")
    return line(scale.start, bottom, _RIGHT, bottom, "axis") + "".join(marks + labels) + better


def _row(panel: Panel, entry: Entry, number: int, scale: Scale, channels: list[str]) -> str:
    y = _TOP + _ROW * (number + 0.5)
    mean, ends = _mean(entry), whisker(panel, entry)
    value = "value losing" if entry.loses_to_constant else "value"
    parts = [
        title(_tooltip(panel, entry)),
        text(scale.start - 8, y + 4, entry.label, class_="label", text_anchor="end"),
        error_bar(*ends, scale, y) if ends else "",
        tag("circle", cx=scale(mean), cy=y, r=_RADIUS, class_="dot"),
        text(_WIDTH, y + 4, f"{mean:.4f}", class_=value, text_anchor="end"),
    ]
    return tag("g", *parts, class_=style_of(entry, channels))


def _tooltip(panel: Panel, entry: Entry) -> str:
    ends = whisker(panel, entry)
    interval = f", 95 % interval against none {ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
    return f"{entry.model}, {entry.label}: NE {_mean(entry):.4f}{interval}"


def _description(panel: Panel, entries: list[Entry]) -> str:
    values = ", ".join(f"{entry.label} {_mean(entry):.4f}" for entry in entries)
    return f"NE of {panel.task} on {panel.vertical}, {panel.model}: {values}."


def _mean(entry: Entry) -> float:
    score = entry.score("ne")
    assert score is not None, "entries without NE are left out"
    return score.mean
