"""Reliability pictures: observed over predicted rate by decile, beside the diagonal where both agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.reliability import Decile, calibration_error
from experiments.report.svg import (
    Scale,
    bounds,
    line,
    picture,
    tag,
    text,
    text_width,
    tick_labels,
    ticks,
    title,
)

_WIDTH, _LEFT, _TOP, _BOTTOM = 360.0, 40.0, 10.0, 206.0
_LEGEND, _ROW = 16.0, 15.0


@dataclass(frozen=True)
class Curve:
    """One model.

    Attributes:
        label: its name.
        style: CSS classes.
        deciles: at least one, the lowest predictions first.
    """

    label: str
    style: str
    deciles: Sequence[Decile]

    @property
    def written(self) -> str:
        """Name and calibration error."""
        return f"{self.label} {calibration_error(self.deciles):.3f}"


def reliability_picture(curves: Sequence[Curve], description: str) -> str:
    """One line per model over equal axes; the legend holds calibration errors.

    Args:
        curves: at least one.
        description: what it shows, for those who do not see it.
    """
    right = _WIDTH - max(text_width(curve.written) for curve in curves) - _LEGEND - 12
    rates = [rate for curve in curves for d in curve.deciles for rate in (d.predicted, d.observed)]
    low, high = bounds([0.0, *rates], 0.04)
    x, y = Scale(max(low, 0.0), high, _LEFT, right), Scale(max(low, 0.0), high, _BOTTOM, _TOP)
    diagonal = line(x(x.low), y(y.low), x(x.high), y(y.high), "edge")
    drawn = [_curve(curve, x, y) for curve in curves]
    names = [_name(curve, number, right) for number, curve in enumerate(curves)]
    height = max(_BOTTOM + 38, _TOP + _ROW * len(curves))
    return picture(_WIDTH, height, description, _axes(x, y), diagonal, *drawn, *names)


def _curve(curve: Curve, x: Scale, y: Scale) -> str:
    points = " ".join(f"{x(d.predicted):.1f},{y(d.observed):.1f}" for d in curve.deciles)
    dots = [
        tag("circle", title(_tooltip(curve, n, d)), cx=x(d.predicted), cy=y(d.observed), r=2.2)
        for n, d in enumerate(curve.deciles, start=1)
    ]
    return tag("g", tag("polyline", points=points, class_="line"), *dots, class_=curve.style)


def _tooltip(curve: Curve, number: int, decile: Decile) -> str:
    rates = f"predicted {decile.predicted:.4f}, observed {decile.observed:.4f}"
    return f"{curve.label}, decile {number}: {rates}, {decile.examples:,} examples"


def _name(curve: Curve, number: int, right: float) -> str:
    y = _TOP + _ROW * (number + 0.5)
    mark = line(right + _LEGEND - 12, y - 3.5, right + _LEGEND, y - 3.5, "line")  # dashed as its curve is
    name = text(right + _LEGEND + 4, y, curve.written, class_="label")
    return tag("g", mark, name, class_=curve.style)


def _axes(x: Scale, y: Scale) -> str:
    values = ticks(y.low, y.high, 4)
    labels = tick_labels(values)
    grid = [line(x.start, y(value), x.stop, y(value), "grid") for value in values]
    down = [
        text(x.start - 6, y(value) + 3.5, label, class_="tick", text_anchor="end")
        for value, label in zip(values, labels, strict=True)
    ]
    along = [
        text(x(value), _BOTTOM + 14, label, class_="tick", text_anchor="middle")
        for value, label in zip(values, labels, strict=True)
    ]
    word = text((x.start + x.stop) / 2, _BOTTOM + 32, "predicted rate", class_="tick", text_anchor="middle")
    return "".join([*grid, line(x.start, _BOTTOM, x.stop, _BOTTOM, "axis"), *down, *along, word])
