"""Estimates with intervals from scores per seed and per bootstrap draw. Free of torch.

A `Statistic` is a seed mean that knows its value in every seed and, as a seed mean, in every bootstrap draw
over users. Statistics of the same seeds add and subtract value by value (`combine`), which keeps seeds and
users paired.

Its squared standard error is, as PROTOCOL.md says, variance over draws + variance over seeds / n seeds; its
interval takes t with n - 1 degrees of freedom on the sum of both. The part of the seeds' noise that changes
from user to user is in both terms, and t's few degrees of freedom are applied to the users' part too: both
make the interval wider, never narrower. With one seed the second term cannot be estimated: the interval then
counts the bootstrap alone, with the normal quantile, and `seeds` = 1 says so.

A ratio's interval is Fieller's (1954): the ratios r for which numerator - r * denominator cannot be told from
0. It is the test of that difference turned round, agrees with the delta method when the denominator is clear,
and is bounded exactly when the denominator's own interval excludes 0, the protocol's condition for a ratio to
exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from distill.scores import ScoreError

LEVEL = 0.95
"""Two-sided level of every interval."""


@dataclass(frozen=True)
class Statistic:
    """A seed mean with its values per seed and per draw.

    Attributes:
        seeds: seed numbers [S].
        per_seed: float64 [S], the value in each seed.
        draws: float64 [D], the mean over seeds in each bootstrap draw.
    """

    seeds: tuple[int, ...]
    per_seed: NDArray[np.float64]
    draws: NDArray[np.float64]

    @property
    def value(self) -> float:
        return float(self.per_seed.mean())

    def shared_by(self, seeds: tuple[int, ...]) -> Statistic:
        """The common reference of several seeds; the noise of a reference of one seed is not counted.

        Raises:
            ScoreError: neither the same seeds nor exactly one.
        """
        if self.seeds == seeds:
            return self
        if len(self.seeds) != 1:
            raise ScoreError(f"seeds of a reference: got {self.seeds}, allowed: {seeds}, or exactly one seed")
        return Statistic(seeds, np.repeat(self.per_seed, len(seeds)), self.draws)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Attributes:
        value: the estimate.
        low, high: ends of the interval; None when it is undefined (a ratio over nothing, a handful of users).
        seeds: number of seeds; with 1 the interval counts the bootstrap alone.
    """

    value: float | None
    low: float | None
    high: float | None
    seeds: int

    @property
    def above_zero(self) -> bool:
        """True when the interval lies above 0."""
        return self.low is not None and self.low > 0

    @property
    def excludes_zero(self) -> bool:
        """True when the interval lies on one side of 0: the mark of a significant difference."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def combine(terms: Sequence[tuple[float, Statistic]]) -> Statistic:
    """The sum of coefficient * statistic, seed by seed and draw by draw.

    Args:
        terms: at least one (coefficient, statistic); all of the same seeds.

    Raises:
        ScoreError: seeds that differ: a paired difference needs every seed on both sides.
    """
    first = terms[0][1]
    for _, statistic in terms:
        if statistic.seeds != first.seeds:
            raise ScoreError(
                f"seeds: got {first.seeds} and {statistic.seeds}, allowed: the same on both sides. "
                "Train the missing seeds, or compare the common ones"
            )
    per_seed = np.sum([c * statistic.per_seed for c, statistic in terms], axis=0)
    return Statistic(first.seeds, per_seed, np.sum([c * statistic.draws for c, statistic in terms], axis=0))


def estimate(statistic: Statistic) -> Estimate:
    """The statistic's value and interval."""
    value, n = statistic.value, len(statistic.seeds)
    error = np.sqrt(_covariance([statistic])[0, 0])
    if not np.isfinite(error):
        return Estimate(value, None, None, n)
    half = float(_quantile(n) * error)
    return Estimate(value, value - half, value + half, n)


def difference(a: Statistic, b: Statistic) -> Estimate:
    """a - b, paired by seed and by user; for losses, above 0 means that b is the better one."""
    return estimate(combine([(1.0, a), (-1.0, b)]))


def ratio(numerator: Statistic, denominator: Statistic) -> Estimate:
    """Ratio of two seed means with Fieller's interval.

    Returns:
        All None unless the denominator's interval lies above 0.

    Raises:
        ScoreError: seeds that differ.
    """
    combine([(1.0, numerator), (-1.0, denominator)])  # refuses seeds that differ
    top, bottom, n = numerator.value, denominator.value, len(numerator.seeds)
    spread = _quantile(n) ** 2 * _covariance([numerator, denominator])
    if not np.isfinite(spread).all() or not estimate(denominator).above_zero:
        return Estimate(None, None, None, n)
    # (top - r bottom)^2 = spread[0,0] - 2 r spread[0,1] + r^2 spread[1,1], a quadratic in r
    square = bottom**2 - spread[1, 1]
    middle = top * bottom - spread[0, 1]
    root = np.sqrt(max(middle**2 - square * (top**2 - spread[0, 0]), 0.0))
    return Estimate(top / bottom, float((middle - root) / square), float((middle + root) / square), n)


def _covariance(statistics: Sequence[Statistic]) -> NDArray[np.float64]:
    """Covariance matrix [Q, Q] of seed means: over draws + over seeds / n seeds (from two seeds on)."""
    total = np.atleast_2d(np.cov([statistic.draws for statistic in statistics]))
    n = len(statistics[0].seeds)
    if n > 1:
        total = total + np.atleast_2d(np.cov([statistic.per_seed for statistic in statistics])) / n
    return total


def _quantile(seeds: int) -> float:
    tail = (1.0 + LEVEL) / 2.0
    return float(stdtrit(seeds - 1, tail)) if seeds > 1 else float(ndtri(tail))
