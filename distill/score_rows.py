"""The `rows` of results.json: every score of each (cell, task, seed, split, vertical). Free of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from distill import scores
from distill.cells import POOLED, Cell
from distill.predictions import UNKNOWN, CellPredictions, Predictions
from distill.rates import Rates, base_rate
from distill.results import CELL_FIELDS, ROW_COLUMNS, SCORE_COLUMNS, Row
from distill.truth import Truth


def score_rows(
    sources: Sequence[CellPredictions],
    verticals: Sequence[str],
    rates: Rates,
    splits: Sequence[str] = ("tune",),
    truth: Truth | None = None,
) -> list[Row]:
    """Score predictions.

    A cell of one vertical gives one row per (task, seed, split). A cell of vertical `all` gives one per
    vertical and one "pooled" over all verticals. Cells that differ in nothing but their vertical and cover
    all verticals give "pooled" rows too, on the union of their rows; these carry the id of the same cell with
    vertical "pooled".

    Args:
        sources: cells with their predictions (`open_predictions`).
        verticals: the schema's verticals.
        rates: p of each (vertical or "pooled", task) (`RateCounter.rates`).
        splits: `tune`, and `test` when it may be read.
        truth: the simulator's probabilities of these splits' examples; without it `oracle_ne` is None.

    Returns:
        Dictionaries with `ROW_COLUMNS`. A row set without a labelled row has `examples` 0 and no scores.

    Raises:
        PredictionError: files that break their form, lack a split or hold rows of another vertical.
        ScoreError: no base rate for a (vertical, task).
    """
    rows: list[Row] = []
    members: dict[Cell, list[CellPredictions]] = defaultdict(list)
    for source in sources:
        if source.cell.vertical in verticals:
            members[source.cell.pooled].append(source)
        for seed in source.seeds:
            predictions = source.read(seed, splits)
            for split in splits:
                for vertical, domains in source.cell.row_sets(verticals).items():
                    selected = predictions.select(split, domains)
                    rows += _of_tasks(source.cell, vertical, seed, split, selected, rates, truth)
    for pooled, group in members.items():
        if {member.cell.vertical for member in group} == set(verticals):
            for seed in sorted(set.intersection(*(set(member.seeds) for member in group))):
                union = Predictions.concatenate([member.read(seed, splits) for member in group])
                for split in splits:
                    rows += _of_tasks(
                        pooled, POOLED, seed, split, union.select(split, verticals), rates, truth
                    )
    return rows


def _of_tasks(
    cell: Cell,
    vertical: str,
    seed: int,
    split: str,
    predictions: Predictions,
    rates: Rates,
    truth: Truth | None,
) -> list[Row]:
    fields = {name: getattr(cell, name) for name in CELL_FIELDS} | {"vertical": vertical}
    rows = []
    for task in predictions.tasks:
        p = base_rate(rates, vertical, task)
        row = fields | {"task": task, "seed": seed, "split": split} | _scores(predictions, task, p, truth)
        rows.append({column: row[column] for column in ROW_COLUMNS})
    return rows


def _scores(predictions: Predictions, task: str, p: float, truth: Truth | None) -> Row:
    """`SCORE_COLUMNS` of the rows whose label is known."""
    row: Row = dict.fromkeys(SCORE_COLUMNS) | {"examples": 0, "positives": 0, "base_rate": p}
    labelled = predictions.take(predictions.labels[task] != UNKNOWN)
    if not len(labelled):
        return row
    logit, label = labelled.logits[task], labelled.labels[task]
    mean = scores.logloss(logit, label)
    row |= {
        "examples": len(labelled),
        "positives": int(label.sum(dtype=np.int64)),
        "constant_logloss": scores.constant_logloss(label, p),
        "ne": scores.ne(mean, p),
        "logloss": mean,
        "auc": scores.auc(logit, label),
        "gauc": scores.gauc(logit, label, labelled.user_id),
        "calibration": scores.calibration(logit, label),
    }
    if truth is not None:
        row["oracle_ne"] = scores.oracle_ne(truth.of(task, labelled.example_id), label, p)
    return row
