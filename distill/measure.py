"""Losses of cells on common rows, ready to be compared: a `Statistic` per (cell, row set, task, measure).

Every measure L (lower is better) is written as a mean over rows of a per-row value, so that one bootstrap
serves all:

- `ne`: log-loss / H(p), exactly such a mean.
- `ne_intercept`: the same after adding the intercept fitted on the tune days' predictions of that (vertical,
  task, model, seed); in the bootstrap the intercept is part of the model, like its weights, and stays fixed.
- `auc`: 1 - AUC. Its per-row values are the first-order (Hajek) projection of the two-sample U-statistic, as
  in DeLong et al. (1988): their mean is 1 - AUC exactly, and reweighting users changes it to first order.
  Reweighting AUC itself costs a pass over the sorted rows per draw, some thousand times more, for the same
  spread (tests compare the two).

Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.bootstrap import DRAWS, UserTotals, bootstrap_means
from distill.cells import ALL
from distill.intercept import fit_intercept
from distill.interval import Statistic
from distill.predictions import UNKNOWN, CellPredictions, Predictions
from distill.rates import Rates, base_rate
from distill.scores import ScoreError, auc, entropy, logloss_per_row, midranks

MEASURES = ("ne", "auc", "ne_intercept")
_TUNE = "tune"
_NAMED = 5  # examples named in an error

Key = tuple[str, str, str]
"""(vertical or "pooled", task, measure)."""


@dataclass(frozen=True)
class Frame:
    """The rows on which all cells are compared.

    Attributes:
        name: vertical or "pooled".
        rows: predictions of the cell that defines the rows, ascending by example_id.
    """

    name: str
    rows: Predictions

    def align(self, predictions: Predictions, cell: object, subset: bool) -> Predictions:
        """The predictions on exactly these rows, in this order.

        Args:
            predictions: rows of the same split and domains.
            cell: whose they are, for errors.
            subset: True when the predictions may hold more rows (a teacher's).

        Raises:
            ScoreError: rows missing (naming how many), rows too many, other labels.
        """
        order = np.argsort(predictions.example_id)
        ids = predictions.example_id[order]
        missing = np.setdiff1d(self.rows.example_id, ids, assume_unique=True)
        foreign = np.setdiff1d(ids, self.rows.example_id, assume_unique=True)
        if len(missing) or (len(foreign) and not subset):
            raise ScoreError(
                f"rows of cell {cell} in {self.name}: {len(missing)} of {len(self.rows)} are missing "
                f"(example_id {missing[:_NAMED].tolist()}), {len(foreign)} too many "
                f"({foreign[:_NAMED].tolist()}); allowed: the same rows "
                "for every model. Predict them again from the same data set"
            )
        aligned = predictions.take(order[np.searchsorted(ids, self.rows.example_id)])
        for task in set(aligned.tasks) & set(self.rows.tasks):
            differ = aligned.example_id[aligned.labels[task] != self.rows.labels[task]]
            if len(differ):
                raise ScoreError(
                    f"labels of {task} of cell {cell} in {self.name}: {len(differ)} differ from another cell "
                    f"(example_id {differ[:_NAMED].tolist()}); allowed: the final labels of one data set"
                )
        return aligned


def measure(
    sources: Sequence[CellPredictions],
    verticals: Sequence[str],
    rates: Rates,
    split: str,
    draws: int = DRAWS,
    bootstrap_seed: int = 0,
) -> list[dict[Key, Statistic | None]]:
    """Measure cells on the same rows.

    The rows of a vertical are those of the first cell of that vertical; the other cells of the vertical must
    have the same ones, cells of vertical `all` at least these. "pooled" rows are measured for cells of
    vertical `all` alone, and only when no other cell is given.

    Args:
        sources: cells with their predictions; each is read one seed at a time.
        verticals: the schema's verticals.
        rates: p of each (vertical or "pooled", task).
        split: `tune` or `test`.
        draws: bootstrap draws over users.
        bootstrap_seed: the same for everything that is compared.

    Returns:
        One dictionary per source, in order: key -> its loss, or None where it is undefined (one class only, p
            of 0 or 1). Row sets on which nothing else can be compared with the source are absent.

    Raises:
        ScoreError: rows or labels that differ between cells, a task without a labelled row, no base rate.
        PredictionError: files that break their form.
    """
    frames = _frames(sources, verticals, split)
    losses = [_losses(source, frames, verticals, rates, split) for source in sources]
    defined = [
        (number, key, loss)
        for number, of in enumerate(losses)
        for key, loss in of.items()
        if loss is not None
    ]
    columns = bootstrap_means([loss.totals for _, _, loss in defined], draws, bootstrap_seed)
    measured: list[dict[Key, Statistic | None]] = [dict.fromkeys(of) for of in losses]
    for column, (number, key, loss) in enumerate(defined):
        measured[number][key] = Statistic(
            sources[number].seeds, np.array(loss.per_seed), columns[:, column].copy()
        )
    return measured


def auc_per_row(logit: NDArray[np.floating], label: NDArray[np.integer]) -> NDArray[np.float64] | None:
    """Per-row values [N] whose mean is 1 - AUC and whose weighted mean is 1 - weighted AUC to first order.

    Returns:
        float64 [N], or None with one class only.
    """
    value = auc(logit, label)
    if value is None:
        return None
    positive = np.asarray(label, dtype=bool)
    n, positives = len(positive), int(positive.sum())
    ranks = midranks(logit)
    # Share of the other class that a row beats (positives) or is beaten by (negatives), ties counting half.
    beats = np.empty(n)
    beats[positive] = (ranks[positive] - midranks(logit[positive])) / (n - positives)
    beats[~positive] = 1.0 - (ranks[~positive] - midranks(logit[~positive])) / positives
    influence = n * (beats - value) / np.where(positive, positives, n - positives)
    return 1.0 - value - influence


@dataclass(frozen=True)
class _Loss:
    """One loss of one cell: its value in every seed, and the users' totals of its mean over seeds."""

    per_seed: list[float]
    totals: UserTotals


def _frames(sources: Sequence[CellPredictions], verticals: Sequence[str], split: str) -> dict[str, Frame]:
    definers: dict[str, tuple[CellPredictions, tuple[str, ...]]] = {}
    single = [source for source in sources if source.cell.vertical != ALL]
    for source in single or sources[:1]:
        for name, domains in source.cell.row_sets(verticals).items():
            definers.setdefault(name, (source, domains))
    frames = {}
    for name, (source, domains) in definers.items():
        rows = source.read(source.seeds[0], [split]).select(split, domains)
        if len(rows):  # a vertical may be empty for a teacher; a student without rows is refused on reading
            frames[name] = Frame(name, rows.take(np.argsort(rows.example_id)))
    return frames


def _losses(
    source: CellPredictions, frames: Mapping[str, Frame], verticals: Sequence[str], rates: Rates, split: str
) -> dict[Key, _Loss | None]:
    per_seed: dict[Key, list[float]] = {}
    sums: dict[Key, NDArray[np.float64] | None] = {}
    users: dict[Key, NDArray[np.int64]] = {}
    for seed in source.seeds:
        predictions = source.read(seed, sorted({_TUNE, split}))
        for name, domains in source.cell.row_sets(verticals).items():
            if name not in frames:
                continue
            scored = predictions.select(split, domains)
            scored = frames[name].align(scored, source.cell, subset=source.cell.vertical == ALL)
            tune = predictions.select(_TUNE, domains)
            for task in predictions.tasks:
                known, values = _per_row(
                    scored, tune, task, base_rate(rates, name, task), f"{source.cell} in {name}"
                )
                for kind, value in values.items():
                    key = (name, task, kind)
                    users[key] = scored.user_id[known]
                    before = sums.get(key, np.zeros(int(known.sum())))
                    if value is None or before is None:
                        sums[key] = None
                        continue
                    sums[key] = before + value
                    per_seed.setdefault(key, []).append(float(value.mean()))
    n = len(source.seeds)
    return {
        key: None if total is None else _Loss(per_seed[key], _totals(users[key], total / n))
        for key, total in sums.items()
    }


def _per_row(
    scored: Predictions, tune: Predictions, task: str, p: float, where: str
) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.float64] | None]]:
    """Which rows have a label [N], and the values of each measure on these rows (None = undefined)."""
    known = scored.labels[task] != UNKNOWN
    if not known.any():
        raise ScoreError(
            f"{task} of cell {where}: none of {len(scored)} rows has a label, allowed: at least one"
        )
    logit, label = scored.logits[task][known].astype(np.float64), scored.labels[task][known]
    fitted = tune.labels[task] != UNKNOWN
    intercept = fit_intercept(tune.logits[task][fitted], tune.labels[task][fitted]) if fitted.any() else None
    normaliser = entropy(p)
    return known, {
        "ne": logloss_per_row(logit, label) / normaliser if normaliser > 0 else None,
        "auc": auc_per_row(logit, label),
        "ne_intercept": (
            logloss_per_row(logit + intercept, label) / normaliser
            if normaliser > 0 and intercept is not None
            else None
        ),
    }


def _totals(user_id: NDArray[np.int64], value: NDArray[np.float64]) -> UserTotals:
    users, place = np.unique(user_id, return_inverse=True)
    return UserTotals(users, np.bincount(place, value).astype(float), np.bincount(place).astype(float))
