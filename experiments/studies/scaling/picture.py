"""The scaling law as a picture: NE against training FLOPs, a panel per task, a colour per history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.studies.picture import Mark, Panel, Series, seed_interval, write_panels

if TYPE_CHECKING:
    from experiments.studies.scaling.run import Fitted, Point

_CURVE_POINTS = 60


def scaling_picture(data: str, points: Sequence[Point], laws: Sequence[Fitted], path: Path) -> None:
    """Write the picture.

    Args:
        data: name of the data set.
        points: at least one.
        laws: fitted to them.
        path: the SVG file.
    """
    panels = [
        Panel(f"{task}: NE, pooled", "FLOPs of one training", _series(task, points, laws))
        for task in dict.fromkeys(point.task for point in points)
    ]
    write_panels(
        path,
        f"{data}: NE on the tune days as the model grows (below: better)",
        "Whiskers: 95 % over seeds. Dashed: a + b·C⁻ᶜ, or a straight line where the points do not bend.",
        panels,
    )


def _series(task: str, points: Sequence[Point], laws: Sequence[Fitted]) -> list[Series]:
    found = []
    mine = [point for point in points if point.task == task]
    for place, history in enumerate(dict.fromkeys(point.history for point in mine)):
        members = [point for point in mine if point.history == history]
        marks = [_mark(point, labelled=place == 0) for point in members]
        fitted = [f for f in laws if (f.task, f.history, f.against) == (task, str(history), "train_flops")]
        found.append(Series(f"{history:,} events", marks, _curve(marks, fitted[0]) if fitted else ()))
    return found


def _mark(point: Point, labelled: bool) -> Mark:
    low, high = seed_interval(list(point.ne.per_seed))
    return Mark(
        point.train_flops,
        point.ne.value,
        low,
        high,
        label=point.size.rpartition("-")[2] if labelled else "",
        tooltip=f"{point.size}, {point.history} events: NE {point.ne.value:.4f}",
    )


def _curve(marks: Sequence[Mark], fitted: Fitted) -> list[tuple[float, float]]:
    law = fitted.law.power or fitted.law.line
    if law is None:
        return []
    xs = np.geomspace(min(m.x for m in marks), max(m.x for m in marks), _CURVE_POINTS)
    return [(float(x), law(float(x))) for x in xs]
