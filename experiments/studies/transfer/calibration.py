"""Calibration of every channel on the pooled rows with the protocol's interval, and its distance from 1 against `none`.

Calibration = sum of predicted probabilities / positives (distill.scores). Reweighting users moves both sums, so that a
draw's calibration is the ratio of its two means; over seeds only the predictions differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from distill.bootstrap import DRAWS, UserTotals, bootstrap_means
from distill.cells import POOLED
from distill.interval import Estimate, Statistic, combine, estimate
from distill.predictions import UNKNOWN, CellPredictions
from distill.results import Row
from distill.transfer import NONE, Group
from experiments.studies.trainings import JoinedPredictions
from experiments.studies.transfer.bars import MISSED, OK, UNDEFINED, bar_row
from experiments.studies.transfer.joined import joined

CALIBRATION, AGAINST_NONE = "calibration", "calibration_no_worse"
LEAST_POSITIVES = 10_000
LOW, HIGH = 0.97, 1.03


@dataclass(frozen=True)
class Calibrated:
    """Calibration of one channel on one task.

    Attributes:
        value: over seeds and draws.
        predicted: sum of predicted probabilities, mean over seeds.
        positives: number of positives.
    """

    value: Statistic
    predicted: float
    positives: int


_Sums = tuple[str, NDArray[np.float64], int, tuple[UserTotals, UserTotals]]
"""Task; sum of predicted probabilities in every seed; positives; the same by user, predictions as means over seeds."""


def calibrations(
    sources: Sequence[CellPredictions], verticals: Sequence[str], split: str, draws: int = DRAWS
) -> list[Row]:
    """The bars of one split.

    Args:
        sources: cells with their predictions; roles other than `student` are left out.
        verticals: the schema's; conditions without a student on each of them are left out.
        split: `tune` or `test`.
        draws: bootstrap draws over users.

    Returns:
        Dictionaries with `bars.BAR_COLUMNS`: for every channel its calibration (numerator and denominator are the two
        sums), and for every one but `none` how much farther from 1 it is than `none` (numerator and denominator are the
        two calibrations; above 0 is worse, and MISSED when the interval lies above 0). Both are undefined under
        `LEAST_POSITIVES`.
    """
    found = _calibrated(joined(sources, verticals), split, draws)
    rows: list[Row] = []
    for group, tasks in found.items():
        base = found.get(group._replace(channel=NONE), {})
        for task, of_task in tasks.items():
            rows.append(_row(group, task, split, of_task))
            if group.channel != NONE and task in base:
                rows.append(_against(group, task, split, of_task, base[task]))
    return rows


def _calibrated(
    of: Mapping[Group, JoinedPredictions], split: str, draws: int
) -> dict[Group, dict[str, Calibrated]]:
    """Task to its calibration, of every condition; tasks without a positive are left out."""
    sums = [(group, *found) for group, source in of.items() for found in _sums(source, split)]
    means = bootstrap_means([totals for *_, both in sums for totals in both], draws)
    calibrated: dict[Group, dict[str, Calibrated]] = {group: {} for group in of}
    for number, (group, task, predicted, positives, _) in enumerate(sums):
        top, bottom = means[:, 2 * number], means[:, 2 * number + 1]
        ratios = np.divide(top, bottom, out=np.full(draws, np.nan), where=bottom > 0)
        value = Statistic(of[group].seeds, predicted / positives, ratios)
        calibrated[group][task] = Calibrated(value, float(predicted.mean()), positives)
    return calibrated


def _sums(source: JoinedPredictions, split: str) -> Iterator[_Sums]:
    of_seed = [source.read(seed, [split]) for seed in source.seeds]
    first = of_seed[0]
    for task in first.tasks:
        known = first.labels[task] != UNKNOWN
        label, users = first.labels[task][known].astype(np.float64), first.user_id[known]
        if label.any():
            chances = [expit(of.logits[task][known].astype(np.float64)) for of in of_seed]
            totals = _totals(users, np.mean(chances, axis=0)), _totals(users, label)
            yield task, np.array([chance.sum() for chance in chances]), int(label.sum()), totals


def _totals(user_id: np.ndarray, value: np.ndarray) -> UserTotals:
    users, place = np.unique(user_id, return_inverse=True)
    total, rows = np.bincount(place, value).astype(np.float64), np.bincount(place).astype(np.float64)
    return UserTotals(users, total, rows)


def _row(group: Group, task: str, split: str, of: Calibrated) -> Row:
    found, key = estimate(of.value), (POOLED, task, CALIBRATION)
    verdict = OK if LOW <= of.value.value <= HIGH else MISSED
    return bar_row(
        CALIBRATION,
        group,
        "",
        key,
        split,
        found,
        (of.predicted, of.positives),
        _enough(of.positives, verdict),
    )


def _against(group: Group, task: str, split: str, of: Calibrated, base: Calibrated) -> Row:
    found, key = _farther(of.value, base.value), (POOLED, task, CALIBRATION)
    verdict = UNDEFINED if found.low is None else MISSED if found.above_zero else OK
    sides = of.value.value, base.value.value
    return bar_row(AGAINST_NONE, group, NONE, key, split, found, sides, _enough(of.positives, verdict))


def _farther(of: Statistic, base: Statistic) -> Estimate:
    """|of - 1| - |base - 1|; on its side of 1 each is a straight line, along which its draws are taken."""
    sides = [1.0 if statistic.value >= 1 else -1.0 for statistic in (of, base)]
    found = estimate(combine([(sides[0], of), (-sides[1], base)]))
    shift = sides[1] - sides[0]
    value, low, high = (None if end is None else end + shift for end in (found.value, found.low, found.high))
    return Estimate(value, low, high, found.seeds)


def _enough(positives: int, verdict: str) -> str:
    return verdict if positives >= LEAST_POSITIVES else UNDEFINED
