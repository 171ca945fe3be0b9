"""Scores by day from the predictions of a run folder: what the tracker logs and the report draws.

Free of torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from distill import scores
from distill.cells import POOLED
from distill.predictions import UNKNOWN, CellPredictions, Predictions
from experiments.recorded import RecordedRun

MEASURES = ("ne", "auc", "calibration")


@dataclass(frozen=True)
class DayScore:
    """Scores of one day's labelled rows.

    Attributes:
        cell_id: whose predictions.
        vertical: whose rows; a teacher has scores of every vertical.
        task: which outcome.
        seed: of the training.
        day: from 1.
        examples: labelled rows.
        ne: log-loss of the day / H(p) with the p of the results' rows.
        auc, calibration: as in results.json; None where the day leaves them undefined.
    """

    cell_id: str
    vertical: str
    task: str
    seed: int
    day: int
    examples: int
    ne: float | None
    auc: float | None
    calibration: float | None


@dataclass(frozen=True)
class Band:
    """A mean over seeds and its spread.

    Attributes:
        mean: over seeds.
        sd: between seeds; 0 with one seed.
    """

    mean: float
    sd: float

    @property
    def low(self) -> float:
        return self.mean - self.sd

    @property
    def high(self) -> float:
        return self.mean + self.sd


def band(values: Iterable[float | None]) -> Band | None:
    """Mean and standard deviation over seeds; None when a seed has no value."""
    found = list(values)
    known = [value for value in found if value is not None]
    if not known or len(known) < len(found):
        return None
    return Band(fmean(known), stdev(known) if len(known) > 1 else 0.0)


def by_day(day_scores: Iterable[DayScore], value: Callable[[DayScore], float | None]) -> dict[int, Band]:
    """One band per day, days in order; days with an undefined value are left out.

    Args:
        day_scores: of one cell, vertical and task.
        value: what to average over seeds.
    """
    of_day: dict[int, list[float | None]] = defaultdict(list)
    for score in day_scores:
        of_day[score.day].append(value(score))
    bands = {day: band(values) for day, values in sorted(of_day.items())}
    return {day: found for day, found in bands.items() if found}


def day_scores(run: RecordedRun, source: CellPredictions) -> list[DayScore]:
    """Scores of every predicted day of one cell, except days that the run was not allowed to read.

    Args:
        run: for the base rates and the splits that it scored.
        source: the cell's predictions.
    """
    rates = {(row["vertical"], row["task"]): row["base_rate"] for row in run.rows}
    domains = source.cell.domains
    own = {vertical for vertical, _ in rates if domains is None or vertical in domains} - {POOLED}
    found = []
    for seed in source.seeds:
        predictions = source.read(seed, ["train", *run.splits])
        for code, vertical in enumerate(predictions.domains):
            if vertical in own:
                rows = predictions.take(predictions.domain == code)
                found += _of_vertical(source, seed, rows, vertical, rates)
    return found


def _of_vertical(
    source: CellPredictions,
    seed: int,
    predictions: Predictions,
    vertical: str,
    rates: dict[tuple[str, str], float],
) -> list[DayScore]:
    found = []
    for day in np.unique(predictions.day):
        of_day = predictions.take(predictions.day == day)
        for task in predictions.tasks:
            known = of_day.labels[task] != UNKNOWN
            if known.any():
                logit, label = of_day.logits[task][known], of_day.labels[task][known]
                found.append(
                    DayScore(
                        cell_id=source.cell.cell_id,
                        vertical=vertical,
                        task=task,
                        seed=seed,
                        day=int(day),
                        examples=len(label),
                        ne=scores.ne(scores.logloss(logit, label), rates[vertical, task]),
                        auc=scores.auc(logit, label),
                        calibration=scores.calibration(logit, label),
                    )
                )
    return found
