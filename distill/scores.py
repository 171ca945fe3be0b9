"""Scores of binary predictions: log-loss, NE, AUC, GAUC, calibration. Free of torch.

Everything starts from logits and sums in float64: the log-loss is softplus of the signed logit, so no
probability is ever clipped. A score that the rows leave undefined is None (null in files), by definition:

- `auc`: one class only; `gauc`: fewer than `MIN_USERS` users with both classes.
- `calibration`: no positive.
- `ne`, `oracle_ne`: a rate p of 0 or 1 (its entropy is 0); `constant_logloss`: p of 0 or 1 that the rows
  contradict.

Rows that are no predictions at all (empty, NaN, labels outside {0, 1}) are a `ScoreError`, never a score.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, expit, xlog1py, xlogy

from distill.errors import UserError

MIN_USERS = 200
"""Users with both classes below which `gauc` is null."""

_NAMED = 5  # examples named in an error


class ScoreError(UserError):
    """Predictions that cannot be scored: empty, not finite, labels outside {0, 1}, lengths that differ."""


def logloss_per_row(logit: ArrayLike, label: ArrayLike) -> NDArray[np.float64]:
    """Log-loss of each row, -log sigmoid(z) for a positive and -log sigmoid(-z) for a negative.

    Args:
        logit: [N] any float dtype.
        label: [N] 0 or 1.

    Returns:
        float64 [N], in nats.

    Raises:
        ScoreError: no rows, a logit that is not finite, a label outside {0, 1}, lengths that differ.
    """
    logits, labels = checked(logit, label)
    return np.logaddexp(0.0, np.where(labels, -logits, logits))


def logloss(logit: ArrayLike, label: ArrayLike) -> float:
    """Mean log-loss in nats; arguments and errors of `logloss_per_row`."""
    return float(logloss_per_row(logit, label).mean())


def constant_logloss(label: ArrayLike, p: float) -> float | None:
    """Log-loss of predicting the rate p on every row; None when p is 0 or 1 and a row contradicts it."""
    _, labels = checked(np.zeros(np.shape(label)), label)
    rate = check_rate(p)
    positives = int(labels.sum())
    loss = -float(xlogy(positives, rate) + xlog1py(len(labels) - positives, -rate)) / len(labels)
    return loss if np.isfinite(loss) else None


def entropy(p: float) -> float:
    """H(p) = -p log p - (1-p) log(1-p) of a rate p in [0, 1], in nats; the normaliser of NE."""
    rate = check_rate(p)
    return float(entr(rate) - xlog1py(1.0 - rate, -rate))


def ne(mean_logloss: float, p: float) -> float | None:
    """Normalised entropy: mean log-loss / H(p) (He et al., ADKDD 2014); None when p is 0 or 1.

    Args:
        mean_logloss: nats.
        p: rate of the (vertical, task) over the protocol's training days, not of the rows that are scored.
    """
    normaliser = entropy(p)
    return mean_logloss / normaliser if normaliser > 0 else None


def oracle_ne(true_probability: ArrayLike, label: ArrayLike, p: float) -> float | None:
    """Log-loss of the simulator's true probabilities on these rows / H(p); None when p is 0 or 1.

    Args:
        true_probability: [N] in [0, 1]; stored as such by the simulator, so this one score does not start
            from logits.
        label: [N] 0 or 1.
        p: as for `ne`.

    Raises:
        ScoreError: a probability outside [0, 1], or of 0 (1) on a positive (negative) row; else as
            `logloss_per_row`.
    """
    truth, labels = checked(true_probability, label)
    losses = -(xlogy(labels, truth) + xlog1py(~labels, -truth))
    bad = ~np.isfinite(losses) | (truth < 0) | (truth > 1)
    _refuse(
        bad, truth, "true_probability", "[0, 1], and possible given the label. Is it of the same rows?", None
    )
    return ne(float(losses.mean()), p)


def calibration(logit: ArrayLike, label: ArrayLike) -> float | None:
    """Sum of predicted probabilities / number of positives; None without a positive."""
    logits, labels = checked(logit, label)
    positives = int(labels.sum())
    return float(expit(logits).sum()) / positives if positives else None


def midranks(value: NDArray[Any]) -> NDArray[np.float64]:
    """1-based ranks [N] in which ties share their mean rank."""
    _, inverse, count = np.unique(value, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2.0)[inverse]


def auc(logit: ArrayLike, label: ArrayLike) -> float | None:
    """P(a positive's logit > a negative's) + half the ties (Mann-Whitney, exact); None with one class."""
    logits, labels = checked(logit, label)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    wins = midranks(logits)[labels].sum() - positives * (positives + 1) / 2.0
    return float(wins / positives / negatives)


def gauc(logit: ArrayLike, label: ArrayLike, user_id: ArrayLike, min_users: int = MIN_USERS) -> float | None:
    """Impression-weighted mean of per-user AUC; one-class users are dropped.

    Args:
        logit: [N] float.
        label: [N] 0 or 1.
        user_id: [N] integers.
        min_users: users with both classes below which the score is None.

    Raises:
        ScoreError: as `logloss_per_row`.
    """
    logits, labels = checked(logit, label)
    users = np.asarray(user_id)
    if users.shape != labels.shape:
        raise ScoreError(f"user_id: got shape {users.shape}, allowed: that of label, {labels.shape}")
    order = np.lexsort((logits, users))
    users, logits, labels = users[order], logits[order], labels[order]
    new_user = np.append(True, users[1:] != users[:-1])
    user_start = np.flatnonzero(new_user)
    tie_start = np.flatnonzero(new_user | np.append(True, logits[1:] != logits[:-1]))
    tie_size = np.diff(tie_start, append=len(labels))
    # Ranks run over all rows (half-integers, exact in float64); the rows before a user are taken off below.
    ranks = np.repeat(tie_start + (tie_size + 1) / 2.0, tie_size)
    rows = np.diff(user_start, append=len(labels))
    positives = np.add.reduceat(labels.astype(np.int64), user_start)
    wins = np.add.reduceat(ranks * labels, user_start) - positives * (user_start + (positives + 1) / 2.0)
    both = (positives > 0) & (positives < rows)
    if both.sum() < max(min_users, 1):
        return None
    per_user = wins[both] / (positives * (rows - positives))[both]
    return float(np.average(per_user, weights=rows[both]))


class ScoreSums:
    """Streaming log-loss and calibration of any number of groups (days, domains), for curves over time.

    Updates with parts of the rows add up to one update with all of them (to rounding in float64). AUC is no
    sum over rows: it needs them together (`auc`).

    Args:
        groups: number of groups G.

    Attributes:
        examples, positives: int64 [G].
    """

    def __init__(self, groups: int = 1):
        self.examples = np.zeros(groups, dtype=np.int64)
        self.positives = np.zeros(groups, dtype=np.int64)
        self._loss = np.zeros(groups)
        self._predicted = np.zeros(groups)

    def update(self, logit: ArrayLike, label: ArrayLike, group: ArrayLike | None = None) -> None:
        """Add rows.

        Args:
            logit: [N] float.
            label: [N] 0 or 1.
            group: [N] integers in [0, G); None = all rows in group 0.

        Raises:
            ScoreError: as `logloss_per_row`; a group out of range.
        """
        logits, labels = checked(logit, label)
        number = len(self.examples)
        groups = np.zeros(len(labels), dtype=np.int64) if group is None else np.asarray(group, dtype=np.int64)
        if groups.shape != labels.shape or groups.min() < 0 or groups.max() >= number:
            raise ScoreError(
                f"group: got {np.unique(groups)[:_NAMED]} ..., allowed: one per row in [0, {number})"
            )
        self.examples += np.bincount(groups, minlength=number)
        self.positives += np.bincount(groups[labels], minlength=number)
        self._loss += np.bincount(groups, logloss_per_row(logits, labels), minlength=number)
        self._predicted += np.bincount(groups, expit(logits), minlength=number)

    @property
    def logloss(self) -> NDArray[np.float64]:
        """Mean log-loss [G] in nats; NaN for a group without rows."""
        return _ratio(self._loss, self.examples)

    @property
    def calibration(self) -> NDArray[np.float64]:
        """Sum of predicted probabilities / positives [G]; NaN for a group without a positive."""
        return _ratio(self._predicted, self.positives)


def checked(
    logit: ArrayLike, label: ArrayLike, example_id: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The rows as float64 logits [N] and boolean labels [N].

    Args:
        logit: [N] float.
        label: [N] 0 or 1 (any dtype).
        example_id: int64 [N]; names the rows in an error, else their positions do.

    Raises:
        ScoreError: no rows, lengths that differ, a logit that is not finite, a label outside {0, 1}.
    """
    logits, labels = np.asarray(logit, dtype=np.float64), np.asarray(label)
    if logits.ndim != 1 or labels.shape != logits.shape:
        raise ScoreError(
            f"logit, label: got shapes {logits.shape}, {labels.shape}, allowed: two vectors of one length"
        )
    if not len(logits):
        raise ScoreError("logit, label: got no rows, allowed: at least one")
    _refuse(~np.isfinite(logits), logits, "logit", "finite numbers. Did the model diverge?", example_id)
    allowed = "0 and 1. Leave out rows whose label is unknown"
    _refuse((labels != 0) & (labels != 1), labels, "label", allowed, example_id)
    return logits, labels.astype(bool)


def check_rate(p: float) -> float:
    """A base rate as float; ScoreError when it is not in [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise ScoreError(f"base rate p: got {p}, allowed: a rate in [0, 1]")
    return float(p)


def _refuse(
    bad: NDArray[np.bool_], value: NDArray[Any], name: str, allowed: str, ids: NDArray[Any] | None
) -> None:
    if bad.any():
        rows = np.flatnonzero(bad)[:_NAMED]
        named = f"row {rows.tolist()}" if ids is None else f"example_id {ids[rows].tolist()}"
        raise ScoreError(
            f"{name}: got {value[rows].tolist()} in {named} ({bad.sum()} rows), allowed: {allowed}"
        )


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
