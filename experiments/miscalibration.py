"""Where a model's probabilities are furthest from what happens: days, deciles, old and new users and items.

Free of torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from distill.cells import POOLED
from distill.predictions import UNKNOWN, CellPredictions, Predictions
from experiments.familiarity import GROUPS, Familiarity
from experiments.recorded import RecordedRun
from experiments.reliability import deciles

MIN_POSITIVES = 20
"""Below it chance alone is off by a fifth."""


@dataclass(frozen=True)
class Miscalibrated:
    """Some rows of a vertical and task, means over seeds.

    Attributes:
        vertical, task: whose rows.
        slice: which of them: `day 9`, `decile 10` of the prediction, or a group of `experiments.familiarity`.
        examples: labelled rows.
        positives: of these.
        predicted: sum of the probabilities.
    """

    vertical: str
    task: str
    slice: str
    examples: float
    positives: float
    predicted: float

    @property
    def calibration(self) -> float:
        """Predicted over observed; 1 is right."""
        return self.predicted / self.positives

    @property
    def distance(self) -> float:
        """From 1, in both directions alike: half of what happens is as wrong as twice."""
        return abs(math.log(self.calibration))


def worst_calibrated(
    run: RecordedRun, source: CellPredictions, familiar: Familiarity | None, most: int = 20
) -> list[Miscalibrated]:
    """The slices of one cell that are furthest from 1, the worst first; those with `MIN_POSITIVES` positives only.

    Args:
        run: for the split to judge by.
        source: the cell's predictions.
        familiar: of the days of that split; None leaves old and new users and items out.
        most: how many.
    """
    of_seeds: dict[tuple[str, str, str], list[Miscalibrated]] = defaultdict(list)
    verticals = {row["vertical"] for row in run.rows if row["cell_id"] == source.cell.cell_id} - {POOLED}
    for seed in source.seeds:
        predictions = source.read(seed, [run.split])
        for vertical in sorted(verticals):
            for found in _slices(vertical, predictions.select(run.split, [vertical]), familiar):
                of_seeds[found.vertical, found.task, found.slice].append(found)
    means = [_mean(slices) for slices in of_seeds.values() if len(slices) == len(source.seeds)]
    known = [mean for mean in means if mean.positives >= MIN_POSITIVES and mean.predicted > 0]
    return sorted(known, key=lambda found: found.distance, reverse=True)[:most]


def _slices(vertical: str, rows: Predictions, familiar: Familiarity | None) -> Iterator[Miscalibrated]:
    groups = None if familiar is None else familiar.of(rows.example_id)
    for task in rows.tasks:
        known = rows.labels[task] != UNKNOWN
        if not known.any():
            continue
        logit, label = rows.logits[task][known], rows.labels[task][known]
        for day in np.unique(rows.day[known]):
            yield _of_rows(vertical, task, f"day {day}", logit, label, rows.day[known] == day)
        for place, name in enumerate(GROUPS if groups is not None else ()):
            assert groups is not None
            yield _of_rows(vertical, task, name, logit, label, groups[known] == place)
        for number, tenth in enumerate(deciles(logit, label), start=1):
            n = tenth.examples
            yield Miscalibrated(
                vertical, task, f"decile {number}", n, n * tenth.observed, n * tenth.predicted
            )


def _of_rows(
    vertical: str,
    task: str,
    name: str,
    logit: NDArray[np.floating],
    label: NDArray[np.integer],
    inside: NDArray[np.bool_],
) -> Miscalibrated:
    predicted = float(expit(logit[inside].astype(np.float64)).sum())
    return Miscalibrated(vertical, task, name, int(inside.sum()), float(label[inside].sum()), predicted)


def _mean(seeds: list[Miscalibrated]) -> Miscalibrated:
    first = seeds[0]
    examples, positives, predicted = (
        fmean(getattr(found, name) for found in seeds) for name in ("examples", "positives", "predicted")
    )
    return Miscalibrated(first.vertical, first.task, first.slice, examples, positives, predicted)
