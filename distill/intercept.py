"""One intercept per (vertical, task, model, seed): drift of the base rate is not mistaken for knowledge."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from distill.scores import checked

_STEPS = 200
_TOLERANCE = 1e-12


def fit_intercept(logits: ArrayLike, labels: ArrayLike) -> float | None:
    """The b that minimises the log-loss of logits + b, where predictions sum to the positives.

    Newton's method on the log-loss, which is convex in b. The solution lies between logit(rate) - max(logits)
    and logit(rate) - min(logits); a step that leaves this shrinking bracket is replaced by its middle, so it
    always ends.

    Args:
        logits: [N] float, progressive predictions of the tune days.
        labels: [N] 0 or 1.

    Returns:
        b in logits, or None with one class only (no finite b is best).

    Raises:
        ScoreError: as `distill.scores.logloss_per_row`.
    """
    values, positive = checked(logits, labels)
    rate = float(positive.mean())
    if rate in (0.0, 1.0):
        return None
    low, high = float(logit(rate) - values.max()), float(logit(rate) - values.min())
    intercept = (low + high) / 2.0
    for _ in range(_STEPS):
        predicted = expit(values + intercept)
        gradient, curvature = float(predicted.mean()) - rate, float((predicted * (1.0 - predicted)).mean())
        if abs(gradient) <= _TOLERANCE * rate or high - low <= 4 * np.spacing(max(abs(low), abs(high))):
            return intercept
        low, high = (intercept, high) if gradient < 0 else (low, intercept)
        step = intercept - gradient / curvature if curvature > 0 else low
        intercept = step if low < step < high else (low + high) / 2.0
    raise AssertionError(f"no intercept after {_STEPS} steps between {low} and {high}")
