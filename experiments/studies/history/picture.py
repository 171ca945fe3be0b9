"""Long histories as a picture: cost and quality against the number of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.studies.history.timing import Cost, Place
from experiments.studies.picture import Mark, Panel, Series, seed_interval, write_panels


def history_picture(
    data: str, costs: Mapping[Place, Cost], rows: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Write the picture: milliseconds of a batch, then NE of every task.

    Args:
        data: name of the data set.
        costs: by variant and events.
        rows: of the study's table.
        path: the SVG file.
    """
    panels = [Panel("processor time of a training step, ms", "events", _costs(costs), log_y=True)]
    for task in dict.fromkeys(row["task"] for row in rows if row["task"]):
        of_task = [row for row in rows if row["task"] == task and row["ne"] is not None]
        panels.append(Panel(f"{task}: NE, pooled", "events", _quality(of_task)))
    note = "NE: below is better. Whiskers: 95 % over seeds."
    write_panels(path, f"{data}: cost and quality of long histories", note, panels)


def _costs(costs: Mapping[Place, Cost]) -> list[Series]:
    names = dict.fromkeys(name for name, _ in costs)
    return [
        Series(name, [Mark(n, c.ms_per_batch) for (of, n), c in costs.items() if of == name], joined=True)
        for name in names
    ]


def _quality(rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        found.setdefault(row["variant"], {}).setdefault(row["events"], []).append(row["ne"])
    return [
        Series(name, [_mark(events, values) for events, values in of.items()], joined=True)
        for name, of in found.items()
    ]


def _mark(events: int, values: Sequence[float]) -> Mark:
    return Mark(events, fmean(values), *seed_interval(values))
