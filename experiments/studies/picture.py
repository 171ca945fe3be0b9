"""Pictures of studies: panels side by side, points with intervals and lines, in one SVG file.

Unlike the report's pictures they stand alone: colours and letters are part of the file, on a light background, readable
at 700 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from scipy.special import stdtrit

from distill.files import atomic_path
from distill.interval import LEVEL
from experiments.report.svg import (
    Scale,
    bounds,
    line,
    log_ticks,
    tag,
    text,
    text_width,
    tick_labels,
    ticks,
    title,
)

WIDTH = 700.0
_HEIGHT, _TOP, _BOTTOM, _LEFT, _GAP = 310.0, 62.0, 250.0, 52.0, 18.0
_COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b0478f", "#a37c00", "#7a4fc0")
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1b1d21; }
.title { font-weight: 650; font-size: 13px; } .quiet { fill: #5f646d; font-size: 11px; }
.paper { fill: #fdfdfc; } .grid { stroke: #dfe1e5; } .axis { stroke: #5f646d; }
.whisker { stroke: currentColor; stroke-width: 1.6; fill: none; stroke-linecap: round; }
.curve { stroke: currentColor; stroke-width: 1.6; fill: none; opacity: .6; stroke-dasharray: 5 3; }
.zero { stroke: #1b1d21; } .joined { stroke: currentColor; stroke-width: 1.6; fill: none; } .dot { fill: currentColor; }
"""


@dataclass(frozen=True)
class Mark:
    """A point.

    Attributes:
        x, y: its place.
        low, high: ends of its interval; None for none.
        label: written below it.
        tooltip: shown on pointing at it.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    tooltip: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one colour.

    Attributes:
        name: in the legend; the same name has the same colour in every panel.
        marks: at least one.
        curve: places of a fitted line; empty for none.
        joined: also draw straight lines from point to point.
    """

    name: str
    marks: Sequence[Mark]
    curve: Sequence[tuple[float, float]] = field(default_factory=tuple)
    joined: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes; x is logarithmic.

    Attributes:
        title: above it.
        x_name: below it.
        series: at least one.
        log_y: y is logarithmic too.
    """

    title: str
    x_name: str
    series: Sequence[Series]
    log_y: bool = False


def write_panels(path: Path, heading: str, note: str, panels: Sequence[Panel]) -> None:
    """Write the picture.

    Args:
        path: the SVG file.
        heading: above everything, and what the picture says to those who do not see it.
        note: below everything.
        panels: side by side, at least one.
    """
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    width = (WIDTH - _GAP * (len(panels) - 1)) / len(panels)
    drawn = [_panel(panel, number * (width + _GAP), width, names) for number, panel in enumerate(panels)]
    write_picture(path, _HEIGHT, heading, note, [_legend(names), *drawn])


def write_picture(path: Path, height: float, heading: str, note: str, drawn: Sequence[str]) -> None:
    """Write a picture that stands alone, `WIDTH` wide.

    Args:
        path: the SVG file.
        height: of the picture.
        heading: above everything, and what the picture says to those who do not see it.
        note: below everything.
        drawn: SVG.
    """
    content = tag(
        "svg",
        tag("style", _STYLE),
        tag("rect", width=WIDTH, height=height, class_="paper"),
        text(8, 18, heading, class_="title"),
        *drawn,
        text(8, height - 8, note, class_="quiet"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        width=WIDTH,
        height=height,
        role="img",
        aria_label=heading,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(content + "\n")


def seed_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of a mean over seeds; what all points share, such as the users, is no part of it."""
    n = len(values)
    if n < 2:
        return None, None
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * stdev(values) / math.sqrt(n)
    return fmean(values) - half, fmean(values) + half


def _legend(names: Sequence[str]) -> str:
    parts, x = [], 12.0
    for name in names:
        parts.append(tag("circle", cx=x, cy=34, r=4, fill=_colour(names, name)))
        parts.append(text(x + 9, 38, name))
        x += 32 + text_width(name)
    return "".join(parts)


def _colour(names: Sequence[str], name: str) -> str:
    return _COLOURS[names.index(name) % len(_COLOURS)]


def _panel(panel: Panel, left: float, width: float, names: Sequence[str]) -> str:
    marks = [mark for series in panel.series for mark in series.marks]
    xs, ys = [mark.x for mark in marks], [mark.y for mark in marks]
    ends = [end for mark in marks for end in (mark.low, mark.high) if end is not None]
    x = Scale(min(xs) / 1.5, max(xs) * 1.5, left + _LEFT, left + width, logarithmic=True)
    low, high = (min(ys) / 1.5, max(ys) * 1.5) if panel.log_y else bounds([*ys, *ends], 0.12)
    y = Scale(low, high, _BOTTOM, _TOP, logarithmic=panel.log_y)
    drawn = [
        tag("g", _series(series, x, y), style=f"color:{_colour(names, series.name)}")
        for series in panel.series
    ]
    return text(left + 8, _TOP - 8, panel.title) + _axes(panel, x, y) + "".join(drawn)


def _axes(panel: Panel, x: Scale, y: Scale) -> str:
    values = log_ticks(y.low, y.high) if y.logarithmic else ticks(y.low, y.high, 4)
    labels = [quantity(value) for value in values] if y.logarithmic else tick_labels(values)
    parts = [line(x.start, y(value), x.stop, y(value), "grid") for value in values]
    parts += [
        text(x.start - 6, y(value) + 4, label, class_="quiet", text_anchor="end")
        for value, label in zip(values, labels, strict=True)
    ]
    parts.append(line(x.start, _BOTTOM, x.stop, _BOTTOM, "axis"))
    for value in log_ticks(x.low, x.high):
        parts.append(line(x(value), _BOTTOM, x(value), _BOTTOM + 4, "axis"))
        parts.append(text(x(value), _BOTTOM + 17, quantity(value), class_="quiet", text_anchor="middle"))
    middle = (x.start + x.stop) / 2
    return "".join([*parts, text(middle, _BOTTOM + 34, panel.x_name, class_="quiet", text_anchor="middle")])


def _series(series: Series, x: Scale, y: Scale) -> str:
    parts = []
    if series.curve:
        parts.append(_path([(x(u), y(y.held(v))) for u, v in series.curve], "curve"))
    if series.joined:
        parts.append(_path([(x(mark.x), y(mark.y)) for mark in series.marks], "joined"))
    return "".join([*parts, *(_mark(mark, x, y) for mark in series.marks)])


def _path(places: Sequence[tuple[float, float]], class_: str) -> str:
    return tag("polyline", points=" ".join(f"{u:.1f},{v:.1f}" for u, v in places), class_=class_)


def _mark(mark: Mark, x: Scale, y: Scale) -> str:
    parts = [title(mark.tooltip)] if mark.tooltip else []
    if mark.low is not None and mark.high is not None:
        ends = y(y.held(mark.low)), y(y.held(mark.high))
        parts.append(line(x(mark.x), ends[0], x(mark.x), ends[1], "whisker"))
        parts += [line(x(mark.x) - 3, end, x(mark.x) + 3, end, "whisker") for end in ends]
    parts.append(tag("circle", cx=x(mark.x), cy=y(mark.y), r=3.6, class_="dot"))
    if mark.label:
        below = max(y(mark.y), y(y.held(mark.low)) if mark.low is not None else 0.0)
        parts.append(
            text(x(mark.x), min(below + 15, _BOTTOM - 4), mark.label, class_="quiet", text_anchor="middle")
        )
    return tag("g", *parts)


def quantity(value: float) -> str:
    """A number as an axis says it: 200, 5k, 20M, 1G; powers of ten beyond."""
    if value >= 1e18 or value < 1e-3:
        return f"1e{round(math.log10(value))}" if math.log10(value) % 1 < 1e-9 else f"{value:.0e}"
    size, prefix = next(((s, p) for s, p in _PREFIXES if value >= s), (1.0, ""))
    return f"{value / size:g}{prefix}"
