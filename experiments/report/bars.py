"""Transfer ratios as bars with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.svg import (
    Scale,
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

_WIDTH, _MARGIN, _VALUE = 360.0, 14.0, 126.0
_TOP, _ROW, _AXIS = 18.0, 26.0, 24.0
_LEAST, _MOST = -1.0, 2.0


@dataclass(frozen=True)
class Bar:
    """One channel's transfer ratio.

    Attributes:
        label: the channel.
        style: CSS classes.
        value, low, high: the ratio and its interval; None where it is undefined.
    """

    label: str
    style: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def written(self) -> str:
        """Value and interval as text."""
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{_number(self.value)}"
        return f"{_number(self.value)} [{_number(self.low)}, {_number(self.high)}]"


def bar_picture(bars: Sequence[Bar], description: str) -> str:
    """Bars from 0; the line at 1 is the teacher's whole gain.

    Args:
        bars: at least one.
        description: what it shows, for those who do not see it.
    """
    found = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    low = max(min([0.0, *found]), _LEAST)
    high = min(max([1.0, *found]), _MOST)
    left = max(text_width(bar.label) for bar in bars) + _MARGIN
    right = _WIDTH - max(_VALUE, *(text_width(bar.written) for bar in bars)) - _MARGIN
    scale = Scale(low - 0.03, high + 0.03, left, right)
    bottom = _TOP + _ROW * len(bars)
    rows = [_bar(bar, number, scale) for number, bar in enumerate(bars)]
    return picture(_WIDTH, bottom + _AXIS, description, _axis(scale, bottom), *rows)


def _axis(scale: Scale, bottom: float) -> str:
    values = ticks(scale.low, scale.high, 4)
    labels = [
        text(scale(value), bottom + 16, label, class_="tick", text_anchor="middle")
        for value, label in zip(values, tick_labels(values), strict=True)
    ]
    grid = [line(scale(value), _TOP, scale(value), bottom, "grid") for value in values]
    ends = [line(scale(value), _TOP - 6, scale(value), bottom, "edge") for value in (0.0, 1.0)]
    names = [
        text(scale(0.0), _TOP - 8, "none", class_="tick", text_anchor="middle"),
        text(scale(1.0), _TOP - 8, "teacher", class_="tick", text_anchor="middle"),
    ]
    return "".join(grid + ends + names + labels)


def _bar(bar: Bar, number: int, scale: Scale) -> str:
    y = _TOP + _ROW * (number + 0.5)
    parts = [
        title(f"{bar.label}: {bar.written}"),
        text(scale.start - 8, y + 4, bar.label, class_="label", text_anchor="end"),
    ]
    if bar.value is not None:
        start, stop = sorted((scale(0.0), scale(scale.held(bar.value))))
        parts.append(tag("rect", x=start, y=y - 7.0, width=max(stop - start, 0.5), height=14, class_="bar"))
    if bar.low is not None and bar.high is not None:
        parts.append(error_bar(bar.low, bar.high, scale, y))
    value_class = "value" if bar.value is not None else "value undefined"
    parts.append(text(scale.stop + 12, y + 4, bar.written, class_=value_class))
    return tag("g", *parts, class_=bar.style)


def _number(value: float) -> str:
    return f"{value:z.2f}".replace("-", "−")
