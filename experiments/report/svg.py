"""Small SVG vocabulary of the report's pictures: elements, scales, ticks, labels that do not overlap.

Pictures carry no colours: classes do (style.css), so that one picture serves light and dark pages.
Coordinates are units of the view box; the page draws a panel about as wide as its box, so a unit is about
a CSS pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_DIGIT = 6.6
"""Width of an average character at the pictures' font size (11)."""


def tag(name: str, *children: str, **attributes: object) -> str:
    """One element; children are SVG already, attribute values are escaped.

    Args:
        name: element's name.
        children: inner SVG.
        attributes: a trailing underscore is dropped (`class_`), other underscores become hyphens; floats are
            rounded.
    """
    written = "".join(f' {_attribute(key)}="{escape(_value(value))}"' for key, value in attributes.items())
    return f"<{name}{written}>{''.join(children)}</{name}>" if children else f"<{name}{written}/>"


def text(x: float, y: float, content: str, **attributes: object) -> str:
    """A line of text; its baseline is at y."""
    return tag("text", escape(content), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def title(content: str) -> str:
    """The tooltip of the element that holds it."""
    return tag("title", escape(content))


def picture(width: float, height: float, description: str, *children: str) -> str:
    """A whole picture.

    Args:
        width, height: view box.
        description: what it shows, for those who do not see it.
        children: SVG.
    """
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        role="img",
        aria_label=description,
    )


@dataclass(frozen=True)
class Scale:
    """A straight or logarithmic axis: data to coordinates.

    Attributes:
        low, high: data at the two ends; they differ.
        start, stop: coordinates of the two ends.
        logarithmic: True for a log axis; data above 0.
    """

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def held(self, value: float) -> float:
        """The value, or the end of the axis that it lies beyond."""
        return min(max(value, self.low), self.high)


def error_bar(low: float, high: float, scale: Scale, y: float) -> str:
    """An interval from low to high; an end beyond the axis is an arrow instead of a stop."""
    drawn = line(scale(scale.held(low)), y, scale(scale.held(high)), y, "whisker")
    for end, inward in ((low, 5.0), (high, -5.0)):
        x = scale(scale.held(end))
        if scale.held(end) == end:
            drawn += line(x, y - 3.5, x, y + 3.5, "whisker")
        else:
            arrow = f"M{x + inward:.1f} {y - 3.5:.1f} L{x:.1f} {y:.1f} L{x + inward:.1f} {y + 3.5:.1f}"
            drawn += tag("path", d=arrow, class_="whisker")
    return drawn


def bounds(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """Ends of an axis that holds all values with some air; never of length 0.

    Args:
        values: at least one.
        margin: air at each end, as a share of the range.
    """
    low, high = min(values), max(values)
    air = (high - low) * margin or abs(high) * margin or 1.0
    return low - air, high + air


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within [low, high], steps of 1, 2 or 5 times a power of ten.

    Args:
        low, high: ends of the axis.
        about: how many; the nearest possible number is taken.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    choices = [_multiples(power * factor, low, high) for factor in (0.5, 1, 2, 5, 10)]
    return min(choices, key=lambda values: (abs(len(values) - about), -len(values)))


def _multiples(step: float, low: float, high: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high]; powers alone when there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in fine if low <= value <= high]
    return inside if len(inside) <= 5 else [v for v in inside if math.log10(v) == round(math.log10(v))]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The shortest decimals that tell the ticks apart, the same number of digits for all."""
    for digits in range(7):
        labels = [f"{value:z.{digits}f}" for value in values]
        if all(abs(float(label) - value) < 1e-9 for label, value in zip(labels, values, strict=True)):
            return [label.replace("-", "−") if float(label) else f"{0:.{digits}f}" for label in labels]
    return [f"{value:.2g}" for value in values]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved apart until neighbours are `gap` away from each other, kept within [low, high].

    Args:
        positions: wanted positions, in any order.
        gap: least distance; shrunk when the room does not suffice.
        low, high: the room.
    """
    if not positions:
        return []
    gap = min(gap, (high - low) / max(len(positions) - 1, 1))
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = [min(max(positions[index], low), high) for index in order]
    # Passes pull overlapping neighbours apart by half each; a last sweep makes the distances exact.
    for _ in range(50):
        for i in range(1, len(placed)):
            overlap = gap - (placed[i] - placed[i - 1])
            if overlap > 0:
                placed[i - 1] -= overlap / 2
                placed[i] += overlap / 2
        placed = [
            min(max(p, low + i * gap), high - (len(placed) - 1 - i) * gap) for i, p in enumerate(placed)
        ]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    result = [0.0] * len(positions)
    for place, index in zip(placed, order, strict=True):
        result[index] = place
    return result


def text_width(content: str) -> float:
    """Rough width of a text at the pictures' font size."""
    return _DIGIT * len(content)


def _attribute(name: str) -> str:
    if name == "viewBox":
        return name
    return name.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
