"""Laws of NE against size: NE = a + b C^-c, and the straight line over log C. Free of torch.

Both are fitted to means over seeds by least squares. Intervals are the protocol's, carried through the fit: the line's
slope is a fixed combination of the points; a, b and c are one to first order (delta method), so that users and seeds
stay paired from point to point (`distill.interval`).

Shape letters: P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from distill.interval import Estimate, Statistic, combine, estimate

LEAST_POINTS = 4
"""Below this three parameters fit anything."""

_EXPONENTS = np.geomspace(1e-3, 10.0, 200)


@dataclass(frozen=True)
class Power:
    """NE = a + b C^-c.

    Attributes:
        a: NE at endless compute, and its interval.
        b: NE above a at C = 1.
        c: the exponent, and its interval.
        r2: share of the variance between points that the curve explains.
    """

    a: Estimate
    b: float
    c: Estimate
    r2: float

    def __call__(self, compute: float) -> float:
        assert self.a.value is not None and self.c.value is not None
        return self.a.value + self.b * compute**-self.c.value


@dataclass(frozen=True)
class Line:
    """NE = intercept + slope log10 C.

    Attributes:
        slope: NE per decade, and its interval; below 0 more compute is better.
        intercept: NE at C = 1.
        r2: share of the variance between points that the line explains.
    """

    slope: Estimate
    intercept: float
    r2: float

    def __call__(self, compute: float) -> float:
        assert self.slope.value is not None
        return self.intercept + self.slope.value * float(np.log10(compute))


@dataclass(frozen=True)
class Law:
    """What NE does as C grows.

    Attributes:
        points: P.
        decades: between the smallest and the largest C.
        monotone: True when the mean NE falls from each point to the next larger one.
        power: None below LEAST_POINTS points, or when the points do not bend as a power law does.
        line: None with a single C.
    """

    points: int
    decades: float
    monotone: bool
    power: Power | None
    line: Line | None


def law(compute: Sequence[float], losses: Sequence[Statistic]) -> Law:
    """Fit both laws.

    Args:
        compute: C of each point, above 0 [P].
        losses: NE of each point [P], of the same seeds.
    """
    order = np.argsort(compute, kind="stable")
    x = np.asarray(compute, dtype=float)[order]
    points = [losses[place] for place in order]
    y = np.array([point.value for point in points])
    several = len(np.unique(x)) > 1
    return Law(
        points=len(x),
        decades=float(np.log10(x[-1] / x[0])),
        monotone=several and bool((np.diff(y) < 0).all()),
        power=_power(x, y, points) if len(np.unique(x)) >= LEAST_POINTS else None,
        line=_line(x, y, points) if several else None,
    )


def _line(x: NDArray[np.float64], y: NDArray[np.float64], points: Sequence[Statistic]) -> Line:
    z = np.log10(x)
    design = np.stack([np.ones_like(z), z], axis=1)
    weights = np.linalg.pinv(design)
    intercept, slope = weights @ y
    found = estimate(_combined(weights[1], points))
    return Line(found, float(intercept), _r2(y, intercept + slope * z))


def _power(x: NDArray[np.float64], y: NDArray[np.float64], points: Sequence[Statistic]) -> Power | None:
    middle = float(np.exp(np.log(x).mean()))
    z = np.log(x / middle)  # centred, so that a, b and c are told apart as well as can be
    c = _exponent(z, y)
    if c is None:
        return None
    (a, b), decay = _linear_part(z, y, c), np.exp(-c * z)
    gradient = np.linalg.pinv(np.stack([np.ones_like(z), decay, -b * z * decay], axis=1))
    return Power(
        a=_around(a, _combined(gradient[0], points)),
        b=float(b * middle**c),
        c=_around(c, _combined(gradient[2], points)),
        r2=_r2(y, a + b * decay),
    )


def _exponent(z: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """The exponent with the least squares; None at the end of the range, where no exponent is the best one."""

    def squares(c: float) -> float:
        a, b = _linear_part(z, y, c)
        return float(((y - a - b * np.exp(-c * z)) ** 2).sum())

    best = int(np.argmin([squares(c) for c in _EXPONENTS]))
    if best in (0, len(_EXPONENTS) - 1):
        return None
    ends = _EXPONENTS[best - 1], _EXPONENTS[best + 1]
    return float(minimize_scalar(squares, bounds=ends, method="bounded", options={"xatol": 1e-10}).x)


def _linear_part(z: NDArray[np.float64], y: NDArray[np.float64], c: float) -> NDArray[np.float64]:
    """a and b for a given c."""
    return np.linalg.lstsq(np.stack([np.ones_like(z), np.exp(-c * z)], axis=1), y, rcond=None)[0]


def _combined(weights: NDArray[np.float64], points: Sequence[Statistic]) -> Statistic:
    return combine([(float(weight), point) for weight, point in zip(weights, points, strict=True)])


def _around(value: float, first_order: Statistic) -> Estimate:
    """The value with the interval's width of its first-order form."""
    found = estimate(first_order)
    if found.low is None or found.high is None:
        return Estimate(float(value), None, None, found.seeds)
    half = (found.high - found.low) / 2
    return Estimate(float(value), float(value) - half, float(value) + half, found.seeds)


def _r2(y: NDArray[np.float64], fitted: NDArray[np.float64]) -> float:
    total = ((y - y.mean()) ** 2).sum()
    return float(1.0 - ((y - fitted) ** 2).sum() / total) if total > 0 else 0.0
