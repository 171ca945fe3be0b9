"""Poisson bootstrap over users: weighted means of per-row values under weights that depend on the user alone.

A draw gives every user a Poisson(1) weight, and all rows of a user count with it (Hanley & MacGibbon 2006;
Chamandy et al. 2012). The weight is a function of (seed, draw, user id), computed by a counter-based
generator: a user has the same weight in a draw whatever the cell, the file or the process, so differences
between cells are paired and adding a cell changes no interval. Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2_000
_USERS_PER_BLOCK = 512  # 2,000 draws x 512 users x 8 bytes = 8 MB a block, whatever the number of users

_GOLDEN, _FIRST, _SECOND = (
    np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_UNIFORM_BITS = 53


def _thresholds() -> NDArray[np.uint64]:
    """P(weight <= k), k = 0, 1, ..., as 64-bit integers: the weight of a uniform u is #{thresholds <= u}."""
    cumulative = np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(25)])
    steps = (cumulative * 2.0**_UNIFORM_BITS).astype(np.uint64)
    return steps[steps < np.uint64(2**_UNIFORM_BITS)] << np.uint64(64 - _UNIFORM_BITS)


_THRESHOLDS = _thresholds()


@dataclass(frozen=True)
class UserTotals:
    """A score that is a mean over rows, summed per user: score = total.sum() / rows.sum().

    Attributes:
        user_id: int64 [U], ascending, unique.
        total: float64 [U], sum of the per-row values of each user (mean over seeds).
        rows: float64 [U], rows of each user.
    """

    user_id: NDArray[np.int64]
    total: NDArray[np.float64]
    rows: NDArray[np.float64]


def poisson_weights(user_id: NDArray[np.int64], draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Weights of users in every draw.

    Args:
        user_id: int64 [U].
        draws: number of draws D.
        seed: one seed for everything that is compared.

    Returns:
        float64 [D, U], Poisson(1), the same for the same (seed, draw, user id).
    """
    start = _mixed(np.array([seed], dtype=np.int64).astype(np.uint64))
    users = _mixed(user_id.astype(np.uint64) * _GOLDEN + start)
    counter = np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN
    return np.searchsorted(_THRESHOLDS, _mixed(counter[:, None] + users), side="right").astype(np.float64)


def bootstrap_means(scores: Sequence[UserTotals], draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Every score under every draw.

    Args:
        scores: Q scores, on any users.
        draws: number of draws D.
        seed: see `poisson_weights`.

    Returns:
        float64 [D, Q], sum(weight * total) / sum(weight * rows); NaN where a draw gives all users of a score
        weight 0 (only seen with a handful of users).
    """
    if not scores:
        return np.zeros((draws, 0))
    users = np.unique(np.concatenate([score.user_id for score in scores]))
    totals, rows = np.zeros((draws, len(scores))), np.zeros((draws, len(scores)))
    for first in range(0, len(users), _USERS_PER_BLOCK):
        block = users[first : first + _USERS_PER_BLOCK]
        weights = poisson_weights(block, draws, seed)
        for name, sums in (("total", totals), ("rows", rows)):
            sums += weights @ np.stack([_placed(score, name, block) for score in scores], axis=1)
    return np.divide(totals, rows, out=np.full_like(totals, np.nan), where=rows > 0)


def _placed(score: UserTotals, name: str, block: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values of a score for a block of consecutive users [B]; 0 for users it does not have."""
    first = np.searchsorted(score.user_id, block[0])
    last = np.searchsorted(score.user_id, block[-1], side="right")
    placed = np.zeros(len(block))
    placed[np.searchsorted(block, score.user_id[first:last])] = getattr(score, name)[first:last]
    return placed


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014), elementwise and in place."""
    x ^= x >> np.uint64(30)
    x *= _FIRST
    x ^= x >> np.uint64(27)
    x *= _SECOND
    x ^= x >> np.uint64(31)
    return x
