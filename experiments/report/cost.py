"""Quality against cost: processor time of one training, size of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.svg import (
    Scale,
    bounds,
    line,
    log_ticks,
    picture,
    spread,
    tag,
    text,
    text_width,
    tick_labels,
    ticks,
    title,
)

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 360.0, 220.0, 48.0, 10.0, 178.0
_RADIUS, _SMALLEST = 15.0, 3.5
_LABEL_GAP = 12.0


@dataclass(frozen=True)
class Point:
    """One model.

    Attributes:
        label: its name.
        style: CSS classes.
        seconds: processor time of one training.
        parameters: dense and in tables.
        ne: mean over seeds.
    """

    label: str
    style: str
    seconds: float
    parameters: float
    ne: float


def cost_picture(points: Sequence[Point], description: str) -> str:
    """NE against processor time (log); the area of a dot is the model's parameters, down to a visible size.

    Args:
        points: at least one.
        description: what it shows, for those who do not see it.
    """
    least, most = min(p.seconds for p in points), max(p.seconds for p in points)
    x = Scale(least / 1.6, most * 1.6, _LEFT, _WIDTH, logarithmic=True)
    y = Scale(*bounds([point.ne for point in points], 0.15), _BOTTOM, _TOP)
    largest = max(point.parameters for point in points)
    places = spread([y(point.ne) for point in points], _LABEL_GAP, _TOP + 4, _BOTTOM)
    drawn = [_point(point, x, y, place, largest) for point, place in zip(points, places, strict=True)]
    return picture(_WIDTH, _HEIGHT, description, _axes(x, y), *drawn)


def _point(point: Point, x: Scale, y: Scale, place: float, largest: float) -> str:
    radius = max(_RADIUS * math.sqrt(point.parameters / largest), _SMALLEST)
    cx, cy = x(point.seconds), y(point.ne)
    tooltip = f"{point.label}: NE {point.ne:.4f}, {point.seconds:.1f} s, {point.parameters:,.0f} parameters"
    # The label stands to the right of its dot, or to the left where there is no room.
    side = 1 if cx + radius + 14 + text_width(point.label) <= _WIDTH else -1
    edge, anchor = cx + side * (radius + 10), "start" if side == 1 else "end"
    parts = [
        title(tooltip),
        line(cx + side * radius, cy, edge, place, "lead"),
        tag("circle", cx=cx, cy=cy, r=radius, class_="bubble"),
        text(edge + side * 3, place + 3.5, point.label, class_="label", text_anchor=anchor),
    ]
    return tag("g", *parts, class_=point.style)


def _axes(x: Scale, y: Scale) -> str:
    values = ticks(y.low, y.high, 4)
    grid = [line(_LEFT, y(value), _WIDTH, y(value), "grid") for value in values]
    labels = [
        text(_LEFT - 6, y(value) + 3.5, label, class_="tick", text_anchor="end")
        for value, label in zip(values, tick_labels(values), strict=True)
    ]
    seconds = [
        text(x(value), _BOTTOM + 16, f"{value:g} s", class_="tick", text_anchor="middle")
        for value in log_ticks(x.low, x.high)
    ]
    name = text(
        (_LEFT + _WIDTH) / 2,
        _BOTTOM + 34,
        "processor time of one training",
        class_="tick",
        text_anchor="middle",
    )
    return "".join([*grid, line(_LEFT, _BOTTOM, _WIDTH, _BOTTOM, "axis"), *labels, *seconds, name])
