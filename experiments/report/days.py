"""Scores by day: one line per model, a band of one standard deviation between seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from experiments.curves import Band
from experiments.report.svg import (
    Scale,
    bounds,
    line,
    picture,
    spread,
    tag,
    text,
    text_width,
    tick_labels,
    ticks,
    title,
)

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 360.0, 200.0, 42.0, 8.0, 176.0
_LABEL_GAP = 12.0


@dataclass(frozen=True)
class Line:
    """One model's way through the days.

    Attributes:
        label: written at its end.
        style: CSS classes.
        points: day to mean and spread over seeds, days in order.
    """

    label: str
    style: str
    points: Mapping[int, Band]


def day_picture(
    lines: Sequence[Line], judged: Sequence[int], description: str, zero: bool = False, whole: bool = False
) -> str:
    """Lines over days.

    Args:
        lines: at least one, each with at least one point.
        judged: days whose scores the tables show; they are shaded.
        description: what it shows, for those who do not see it.
        zero: also draw a line at 0.
        whole: room for all days; otherwise the first days, when a model knows nothing, may be cut off.
    """
    right = _WIDTH - max(text_width(each.label) for each in lines) - 10
    days = sorted({day for each in lines for day in each.points})
    x = Scale(days[0] - 0.3, days[-1] + 0.3, _LEFT, right)
    y = Scale(*_range(lines, days, whole), _BOTTOM, _TOP)
    ends = [y(list(each.points.values())[-1].mean) for each in lines]
    places = spread(ends, _LABEL_GAP, _TOP + 4, _BOTTOM)
    labels = [
        _label(each, x, end, place, right) for each, end, place in zip(lines, ends, places, strict=True)
    ]
    marks = [_shade(judged, x), _axes(x, y, days, right, zero)]
    return picture(_WIDTH, _HEIGHT, description, *marks, _clipped(lines, x, y, right), *labels)


def _range(lines: Sequence[Line], days: Sequence[int], whole: bool) -> tuple[float, float]:
    """Room for every line in the later half of the days, and as much again for the first days."""
    late = days[0] if whole else days[len(days) // 2]
    ends = [(band.low, band.high) for each in lines for day, band in each.points.items() if day >= late]
    everything = [(band.low, band.high) for each in lines for band in each.points.values()]
    low, high = bounds(list(chain.from_iterable(ends or everything)))
    room = high - low
    lowest, highest = bounds(list(chain.from_iterable(everything)))
    return max(lowest, low - room), min(highest, high + room)


def _clipped(lines: Sequence[Line], x: Scale, y: Scale, right: float) -> str:
    """Bands and lines, cut off at the axes: a nested picture clips without an id."""
    drawn = [_band(each, x, y) for each in lines] + [_line(each, x, y) for each in lines]
    width, height = right - _LEFT, _BOTTOM - _TOP
    box = f"{_LEFT:g} {_TOP:g} {width:g} {height:g}"
    return tag("svg", *drawn, x=_LEFT, y=_TOP, width=width, height=height, viewBox=box)


def _band(each: Line, x: Scale, y: Scale) -> str:
    upper = [f"{x(day):.1f},{y(band.high):.1f}" for day, band in each.points.items()]
    lower = [f"{x(day):.1f},{y(band.low):.1f}" for day, band in reversed(list(each.points.items()))]
    return tag("polygon", points=" ".join(upper + lower), class_=f"band {each.style}")


def _line(each: Line, x: Scale, y: Scale) -> str:
    points = [f"{x(day):.1f},{y(band.mean):.1f}" for day, band in each.points.items()]
    path = tag("polyline", points=" ".join(points), class_="line")
    dots = [
        tag(
            "circle",
            title(f"{each.label}, day {day}: {band.mean:.4f} ± {band.sd:.4f}"),
            cx=x(day),
            cy=y(band.mean),
            r=2.2,
        )
        for day, band in each.points.items()
    ]
    return tag("g", path, *dots, class_=each.style)


def _label(each: Line, x: Scale, end: float, place: float, right: float) -> str:
    last = list(each.points)[-1]
    end = min(max(end, _TOP), _BOTTOM)
    lead = line(x(last) + 3, end, right + 5, place, "lead")
    return tag("g", lead, text(right + 8, place + 3.5, each.label, class_="label"), class_=each.style)


def _shade(judged: Sequence[int], x: Scale) -> str:
    if not judged:
        return ""
    start, stop = max(x(min(judged) - 0.5), x.start), min(x(max(judged) + 0.5), x.stop)
    return tag("rect", x=start, y=_TOP, width=stop - start, height=_BOTTOM - _TOP, class_="judged")


def _axes(x: Scale, y: Scale, days: Sequence[int], right: float, zero: bool) -> str:
    values = ticks(y.low, y.high, 4)
    grid = [line(_LEFT, y(value), right, y(value), "grid") for value in values]
    labels = [
        text(_LEFT - 6, y(value) + 3.5, label, class_="tick", text_anchor="end")
        for value, label in zip(values, tick_labels(values), strict=True)
    ]
    step = max(1, round(len(days) / 5))
    names = [
        text(x(day), _BOTTOM + 16, f"{day}", class_="tick", text_anchor="middle") for day in days[::step]
    ]
    nothing = [line(_LEFT, y(0.0), right, y(0.0), "axis")] if zero and y.low <= 0 <= y.high else []
    word = text(_LEFT - 6, _BOTTOM + 16, "day", class_="tick", text_anchor="end")
    return "".join([*grid, line(_LEFT, _BOTTOM, right, _BOTTOM, "axis"), *nothing, *labels, *names, word])
