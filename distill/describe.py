"""Marginals of a prepared data set: rows, rates, activity, popularity, drift, history. Free of torch.

Works for the data set of any source; reads a few columns of one day at a time.

Shape letters: R rows of a day, D domains, N days, K tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.dataset import DataSet
from distill.errors import UserError
from distill.parquet import ParquetPart

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
HOUR_MS = 3_600_000


@dataclass
class Counter:
    """How often every id occurs, in any number of updates."""

    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def update(self, ids: np.ndarray) -> None:
        """Count ids, int64 [R]."""
        new, times = np.unique(ids, return_counts=True)
        self.ids, place = np.unique(np.concatenate([self.ids, new]), return_inverse=True)
        counts = np.zeros(len(self.ids), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, times]))
        self.counts = counts


def describe(folder: str | Path, through: int | None = None) -> dict[str, Any]:
    """Marginals of a prepared data set.

    Args:
        folder: the data set.
        through: last day that is looked at; None for all days.

    Returns:
        Plain numbers, lists and mappings:
        `rows`, `days`; `rows_per_day` [N];
        `users`, `items`: how many rows each has, see `distribution`;
        `domains`: by name, those with rows: `rows`, `share`, `users`, `items`, and in `tasks` per task `positives`,
        `rate`, `rate_given_first` (among rows whose first task is positive), `daily` rates [N] (None on a day without
        labels) and `drift`;
        `domains_per_user`: share of users on 1, 2, .. D domains;
        `hours`: share of rows per hour (UTC) of the day;
        `events_per_user`: as `users`, over the whole history index;
        `content`: see `modalities`.

    Raises:
        UserError: `through` is no day of the data set.
        DataError: no complete data set there, or a file is damaged.
    """
    data = DataSet.open(folder)
    last = data.schema.n_days if through is None else through
    if not 1 <= last <= data.schema.n_days:
        raise UserError(f"through: got {last}, allowed: 1 to {data.schema.n_days}, the days of the data set")
    days = range(1, last + 1)
    users, items, hours = Counter(), Counter(), np.zeros(24, np.int64)
    of_domain = [(Counter(), Counter()) for _ in data.schema.domains]
    for day in days:
        user, item, domain, timestamp = _columns(data, day)
        users.update(user)
        items.update(item)
        hours += np.bincount(timestamp // HOUR_MS % 24, minlength=24)
        for index, (its_users, its_items) in enumerate(of_domain):
            its_users.update(user[domain == index])
            its_items.update(item[domain == index])
    rows = int(users.counts.sum())
    labels = _labels(data, days)
    domains = {
        name: {
            "rows": int(its_users.counts.sum()),
            "share": float(its_users.counts.sum() / rows),
            "users": len(its_users.ids),
            "items": len(its_items.ids),
            "tasks": {task: _rates(*labels, index, k) for k, task in enumerate(data.schema.tasks)},
        }
        for index, (name, (its_users, its_items)) in enumerate(
            zip(data.schema.domains, of_domain, strict=True)
        )
        if len(its_users.ids)
    }
    return {
        "rows": rows,
        "days": last,
        "rows_per_day": [data.rows_per_day[day] for day in days],
        "users": distribution(users.counts),
        "items": distribution(items.counts),
        "domains": domains,
        "domains_per_user": _domains_per_user(its_users.ids for its_users, _ in of_domain),
        "hours": (hours / rows).tolist(),
        "events_per_user": distribution(np.diff(np.load(data.events_folder / "offsets.npy"))),
        "content": modalities(data),
    }


def modalities(data: DataSet) -> dict[str, dict[str, Any]]:
    """By modality: `width` of its vectors, and `known`, the share of all item ids that have one.

    Args:
        data: the data set.
    """
    schema = data.schema
    items = schema.sparse[schema.item_feature].size
    found = {}
    for name, content in schema.content.items():
        known = np.load(data.content_folder / name / "known.npy", mmap_mode="r")
        found[name] = {"width": content.width, "known": np.count_nonzero(known) / items}
    return found


def distribution(counts: np.ndarray) -> dict[str, Any]:
    """How unequal counts are.

    Args:
        counts: int [M], each at least 1; M at least 1.

    Returns:
        count, mean, quantiles by level, gini, top_1_percent and top_10_percent (share of the total that the largest
        1 % and 10 % hold, at least one of them).
    """
    ordered = np.sort(counts)
    n, total = len(ordered), float(ordered.sum())
    gini = 2.0 * float(np.arange(1, n + 1) @ ordered) / (n * total) - (n + 1) / n
    return {
        "count": n,
        "mean": total / n,
        "quantiles": {level: float(np.quantile(ordered, level)) for level in QUANTILES},
        "gini": gini,
        "top_1_percent": float(ordered[-max(n // 100, 1) :].sum()) / total,
        "top_10_percent": float(ordered[-max(n // 10, 1) :].sum()) / total,
    }


def _columns(data: DataSet, day: int) -> list[np.ndarray]:
    names = ["user_id", data.schema.item_feature, "domain", "timestamp"]
    tables = [ParquetPart(path).read(names) for path in data.parts(day)]
    return [np.concatenate([table[name].to_numpy() for table in tables]) for name in names]


def _labels(data: DataSet, days: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives and labelled rows by day, domain and task [N, D, K], and rows with a positive first task [D, K]."""
    size, tasks = len(data.schema.domains), len(data.schema.tasks)
    positives, known = np.zeros((2, len(days), size, tasks), np.int64)
    first = np.zeros((size, tasks), np.int64)
    for n, day in enumerate(days):
        outcomes = data.outcomes(day)
        for k in range(tasks):
            label = outcomes.labels[:, k]
            known[n, :, k] = np.bincount(outcomes.domain[label >= 0], minlength=size)
            positives[n, :, k] = np.bincount(outcomes.domain[label == 1], minlength=size)
            after_first = (outcomes.labels[:, 0] == 1) & (label == 1)
            first[:, k] += np.bincount(outcomes.domain[after_first], minlength=size)
    return positives, known, first


def _rates(
    positives: np.ndarray, known: np.ndarray, first: np.ndarray, domain: int, task: int
) -> dict[str, Any]:
    ones, rows = positives[:, domain, task], known[:, domain, task]
    clicks = int(first[domain, 0])
    daily = [float(one / n) if n else None for one, n in zip(ones, rows, strict=True)]
    return {
        "positives": int(ones.sum()),
        "rate": float(ones.sum() / rows.sum()) if rows.sum() else None,
        "rate_given_first": float(first[domain, task] / clicks) if clicks else None,
        "daily": daily,
        "drift": drift(ones, rows),
    }


def drift(positives: np.ndarray, rows: np.ndarray) -> float | None:
    """Standard deviation of daily rates beyond binomial noise; 0 when there is none to see.

    Args:
        positives, rows: int [N], by day.

    Returns:
        sqrt of (variance of the daily rates - their mean binomial variance), or None with fewer than two days.
    """
    positives, rows = positives[rows > 0], rows[rows > 0]
    if len(rows) < 2:
        return None
    rate = positives.sum() / rows.sum()
    noise = float(np.mean(rate * (1 - rate) / rows))
    return float(np.sqrt(max(float(np.var(positives / rows, ddof=1)) - noise, 0.0)))


def _domains_per_user(users: Iterable[np.ndarray]) -> list[float]:
    per_domain = list(users)
    seen = np.unique(np.concatenate(per_domain), return_counts=True)[1]
    return (np.bincount(seen, minlength=len(per_domain) + 1)[1:] / len(seen)).tolist()
