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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.bootstrap import DRAWS, UserTotals, bootstrap_means
from distill.cells import DOMAIN_TEACHER, Cell
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
            ScoreError: rows missing (naming how many), rows too many, other users or labels.
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
        if (aligned.user_id != self.rows.user_id).any():
            raise ScoreError(
                f"user_id of cell {cell} in {self.name}: differs from another cell on the same examples"
            )
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
            of 0 or 1). A teacher has only the verticals that another cell has, if there is another cell.

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


class _Values(NamedTuple):
    """A measure in one seed: the users [N] and values [N] of the labelled rows."""

    user_id: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True)
class _Loss:
    """One loss of one cell: its value in every seed, and the users' totals of its mean over seeds."""

    per_seed: list[float]
    totals: UserTotals


def _frames(sources: Sequence[CellPredictions], verticals: Sequence[str], split: str) -> dict[str, Frame]:
    definers: dict[str, tuple[CellPredictions, tuple[str, ...]]] = {}
    single = [source for source in sources if not _is_teacher(source.cell)]
    for source in single or sources[:1]:
        for name, domains in source.cell.row_sets(verticals).items():
            definers.setdefault(name, (source, domains))
    frames = {}
    for name, (source, domains) in definers.items():
        rows = source.read(source.seeds[0], [split]).select(split, domains)
        if len(rows):  # a vertical may be empty for a teacher; a student without rows is refused on reading
            frames[name] = Frame(name, rows.take(np.argsort(rows.example_id)))
    return frames


def _is_teacher(cell: Cell) -> bool:
    """Of several verticals: it may have more rows than the cells that it is compared with."""
    return cell.domains is None or cell.role == DOMAIN_TEACHER


def _losses(
    source: CellPredictions, frames: Mapping[str, Frame], verticals: Sequence[str], rates: Rates, split: str
) -> dict[Key, _Loss | None]:
    seeds = [_of_seed(source, seed, frames, verticals, rates, split) for seed in source.seeds]
    return {key: _seed_mean([of[key] for of in seeds]) for key in seeds[0]}


def _of_seed(
    source: CellPredictions,
    seed: int,
    frames: Mapping[str, Frame],
    verticals: Sequence[str],
    rates: Rates,
    split: str,
) -> dict[Key, _Values | None]:
    predictions, cell = source.read(seed, sorted({_TUNE, split})), source.cell
    values: dict[Key, _Values | None] = {}
    for name, domains in cell.row_sets(verticals).items():
        if name in frames:
            scored = frames[name].align(predictions.select(split, domains), cell, subset=_is_teacher(cell))
            tune = predictions.select(_TUNE, domains)
            for task in predictions.tasks:
                p = base_rate(rates, name, task)
                for kind, found in _per_row(scored, tune, task, p, f"{cell} in {name}").items():
                    values[name, task, kind] = found
    return values


def _per_row(
    scored: Predictions, tune: Predictions, task: str, p: float, where: str
) -> dict[str, _Values | None]:
    """Each measure on the rows that have a label; None = undefined."""
    known, fitted = (rows.labels[task] != UNKNOWN for rows in (scored, tune))
    if not known.any():
        raise ScoreError(
            f"{task} of cell {where}: none of {len(scored)} rows has a label, allowed: at least one"
        )
    logit, label = scored.logits[task][known].astype(np.float64), scored.labels[task][known]
    intercept = fit_intercept(tune.logits[task][fitted], tune.labels[task][fitted]) if fitted.any() else None
    normaliser = entropy(p)
    found = {
        "ne": logloss_per_row(logit, label) / normaliser if normaliser > 0 else None,
        "auc": auc_per_row(logit, label),
        "ne_intercept": None,
    }
    if normaliser > 0 and intercept is not None:
        found["ne_intercept"] = logloss_per_row(logit + intercept, label) / normaliser
    users = scored.user_id[known]
    return {kind: None if value is None else _Values(users, value) for kind, value in found.items()}


def _seed_mean(seeds: Sequence[_Values | None]) -> _Loss | None:
    defined = [values for values in seeds if values is not None]
    if len(defined) < len(seeds):
        return None
    users, place = np.unique(defined[0].user_id, return_inverse=True)
    mean = np.mean([values.value for values in defined], axis=0)
    rows, total = np.bincount(place).astype(float), np.bincount(place, mean).astype(float)
    return _Loss([float(values.value.mean()) for values in defined], UserTotals(users, total, rows))
