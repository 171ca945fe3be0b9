"""The scores of PROTOCOL.md by scikit-learn and scipy, from predictions files and the data as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, roc_auc_score

from tests.experiments.tiny_experiment import DOMAINS, VERTICALS, raw_rows

Columns = dict[str, np.ndarray]


def read(paths: Sequence[Path], split: str, vertical: str) -> Columns:
    """Rows of one split and vertical (or of all verticals, "pooled"), ordered by example."""
    tables = [pq.read_table(path) for path in paths]
    columns = {name: np.concatenate([t[name].to_numpy() for t in tables]) for name in tables[0].column_names}
    domains = VERTICALS if vertical == "pooled" else (vertical,)
    rows = np.flatnonzero((columns["split"] == split) & np.isin(columns["domain"], domains))
    rows = rows[np.argsort(columns["example_id"][rows])]
    return {name: values[rows] for name, values in columns.items()}


def base_rate(data: Path, days: range, vertical: str, task: str) -> float:
    """Share of positives over some days of the data as it was written."""
    domains = VERTICALS if vertical == "pooled" else (vertical,)
    assert set(domains) <= set(DOMAINS)
    labels = []
    for day in days:
        rows = raw_rows(data, day)
        labels.append(rows[f"label_{task}"][np.isin(rows["domain"], domains)])
    return float(np.concatenate(labels).mean())


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def entropy(p: float) -> float:
    return float(-p * np.log(p) - (1 - p) * np.log(1 - p))


def gauc(columns: Columns, task: str) -> float | None:
    """User by user; None under 200 users with both classes."""
    aucs, weights = [], []
    for user in np.unique(columns["user_id"]):
        rows = columns["user_id"] == user
        label, logit = columns[f"label_{task}"][rows] == 1, columns[f"logit_{task}"][rows]
        if 0 < label.sum() < len(label):
            aucs.append(share_in_order(logit[label], logit[~label]))
            weights.append(len(label))
    return float(np.average(aucs, weights=weights)) if len(aucs) >= 200 else None


def share_in_order(positive: np.ndarray, negative: np.ndarray) -> float:
    """AUC by its definition: of all pairs, those whose positive has the higher logit; ties are half of one.

    scikit-learn's, which checks its arguments for a millisecond, would take seconds for all users of a test.
    """
    higher, lower = positive[:, None], negative[None]
    return float(((higher > lower) + 0.5 * (higher == lower)).mean())


def scores(columns: Columns, task: str, p: float) -> dict[str, float | None]:
    """What a row of results.json says of these predictions, `p` being the base rate."""
    label, logit = columns[f"label_{task}"], columns[f"logit_{task}"]
    loss = log_loss(label, sigmoid(logit))
    return {
        "examples": len(label),
        "positives": int(label.sum()),
        "base_rate": p,
        "constant_logloss": log_loss(label, np.full(len(label), p)),
        "ne": loss / entropy(p),
        "logloss": loss,
        "auc": roc_auc_score(label, logit),
        "gauc": gauc(columns, task),
        "calibration": float(sigmoid(logit).sum() / label.sum()),
    }


def losses(columns: Columns, task: str, p: float) -> dict[str, float]:
    """L of every measure of a transfer ratio."""
    label, logit = columns[f"label_{task}"], columns[f"logit_{task}"].astype(np.float64)
    shifted = minimize_scalar(lambda b: log_loss(label, sigmoid(logit + b)), bounds=(-9, 9), method="bounded")
    ne = log_loss(label, sigmoid(logit)) / entropy(p)
    return {"ne": ne, "auc": 1 - roc_auc_score(label, logit), "ne_intercept": float(shifted.fun) / entropy(p)}
