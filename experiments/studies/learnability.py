"""How learnable is a data set, by means that have nothing to do with transfer: boosted trees on hand-made features.

    distill data simulate runs/simulated
    python -m experiments.studies.learnability runs/simulated experiments/results/simulator_learnability.csv

Trained on days 2-8, scored on days 9-11 (never on test days), task = the schema's first. Three questions: what do rates
of earlier days know, what do the rows of other surfaces add, what do old events add. Needs scikit-learn.

Shape letters: B rows, T events.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from distill.dataset import DataSet
from distill.history import EventStore
from distill.truth import read_truth

FIRST_DAY, LAST_TRAINED, LAST_DAY = 2, 8, 11
# Events of history that the trees may look at; the last is "all of them".
HISTORIES = (0, 50, 100_000)
# Sparse features of more ids are left to the rates.
MOST_LEVELS = 250
PRIOR = 10.0
COLUMNS = ("model", "rows", "history", "vertical", "examples", "auc")

Columns = dict[str, np.ndarray]


def read_days(data: DataSet) -> Columns:
    """Single-valued columns of days 1 to 11, with `day`."""
    schema = data.schema
    names = [name for name, feature in schema.sparse.items() if not feature.multi]
    wanted = list(dict.fromkeys(["example_id", "user_id", "timestamp", "domain", *names, *schema.dense]))
    tables = []
    for day in range(1, LAST_DAY + 1):
        columns = [*wanted, f"label_{schema.task_names[0]}"]
        table = pq.read_table(data.parts(day)[0].parent, columns=columns, partitioning=None)
        tables.append(
            {name: table[name].to_numpy() for name in columns} | {"day": np.full(table.num_rows, day)}
        )
    merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    merged["label"] = merged.pop(f"label_{schema.task_names[0]}")
    return merged


def earlier_rates(rows: Columns, key: np.ndarray) -> np.ndarray:
    """Smoothed logit of the rate of a key over strictly earlier days; the rate of all keys where there is none.

    Args:
        rows: of days 1, 2, ...
        key: int64 [B].
    """
    size = int(key.max()) + 1
    shown, clicked, result = np.zeros(size), np.zeros(size), np.zeros(len(key))
    for day in range(1, LAST_DAY + 1):
        today = rows["day"] == day
        rate = clicked.sum() / max(shown.sum(), 1.0) if day > 1 else 0.5
        p = (clicked + PRIOR * rate) / (shown + PRIOR)
        result[today] = np.log(p / (1 - p))[key[today]]
        shown += np.bincount(key[today], minlength=size)
        clicked += np.bincount(key[today], rows["label"][today], minlength=size)
    return result


def history_features(
    data: DataSet, rows: Columns, category: np.ndarray, limit: int, piece: int = 20_000
) -> np.ndarray:
    """What the last events say about the user and about the item's category.

    Args:
        data: with its history.
        rows: B rows.
        category: int64, category of every item id, 0 where unknown.
        limit: events looked at.
        piece: rows at once.

    Returns:
        float64 [B, 6].
    """
    store = EventStore(data.events_folder)
    domains = len(data.schema.domains)
    rate = np.bincount(rows["domain"], rows["label"], domains) / np.bincount(
        rows["domain"], minlength=domains
    )
    parts = []
    for start in range(0, len(rows["label"]), piece):
        of = {name: values[start : start + piece] for name, values in rows.items()}
        events = store.last(torch.from_numpy(of["user_id"]), torch.from_numpy(of["timestamp"]), limit)
        length = np.diff(events.offsets.numpy())
        row = np.repeat(np.arange(len(length)), length)
        item = rows_item(data, of)
        surplus = events.labels[:, 0].numpy() - rate[events.domain.numpy()]
        same = (category[events.item.numpy()] == category[item][row]) & (category[item][row] > 0)
        recent = np.repeat(events.offsets.numpy()[1:], length) - np.arange(len(row)) <= 10
        sums = [
            np.bincount(row, weights, len(length))
            for weights in (surplus, same, same * surplus, same * recent)
        ]
        parts.append(
            np.stack(
                [
                    length,
                    sums[0] / (length + 5),
                    sums[1],
                    sums[1] / (length + 5),
                    sums[2] / (sums[1] + 2),
                    sums[3],
                ],
                1,
            )
        )
    return np.concatenate(parts)


def rows_item(data: DataSet, rows: Columns) -> np.ndarray:
    """Item ids of rows."""
    return rows[data.schema.item_feature]


def rates_of(data: DataSet, rows: Columns) -> np.ndarray:
    """Rates of user, item, item on surface and surface over strictly earlier days of the same rows, [B, 4]."""
    item, domain = rows_item(data, rows), rows["domain"]
    keys = (rows["user_id"], item, item * len(data.schema.domains) + domain, domain)
    return np.stack([earlier_rates(rows, key) for key in keys], axis=1)


def study(data: DataSet, category_feature: str) -> list[dict[str, object]]:
    """All models and verticals.

    Args:
        data: a prepared data set with at least 11 days.
        category_feature: sparse feature that says what an item is about.

    Returns:
        Rows of `COLUMNS`.
    """
    rows = read_days(data)
    category = np.zeros(data.schema.sparse[data.schema.item_feature].size, np.int64)
    category[rows_item(data, rows)] = rows[category_feature]
    table = Table(data)
    table.fit(
        "logistic regression on rates", "all", 0, rows, rates_of(data, rows), LogisticRegression(max_iter=500)
    )
    for limit in HISTORIES:
        extra = history_features(data, rows, category, limit) if limit else np.zeros((len(rows["label"]), 0))
        table.fit("boosted trees", "all", limit, rows, *trees_on(data, rows, extra))
        for domain in map(data.schema.domain_index, data.schema.verticals):
            mine = rows["domain"] == domain
            own = {name: values[mine] for name, values in rows.items()}
            table.fit("boosted trees", "own", limit, own, *trees_on(data, own, extra[mine], small=True))
    if (data.folder / "truth").is_dir():
        truth = read_truth(data.folder, range(1, LAST_DAY + 1))
        table.add("true probability", "all", 0, rows, truth.of(data.schema.task_names[0], rows["example_id"]))
    return table.lines


def trees_on(
    data: DataSet, rows: Columns, extra: np.ndarray, small: bool = False
) -> tuple[np.ndarray, HistGradientBoostingClassifier]:
    """Inputs (attributes, rates, `extra`) and untrained trees; smaller trees for one surface's rows."""
    attributes = [n for n, f in data.schema.sparse.items() if n in rows and f.size <= MOST_LEVELS]
    plain = [rows[name] for name in (*attributes, *data.schema.dense)]
    model = HistGradientBoostingClassifier(
        max_iter=60 if small else 150,
        learning_rate=0.05 if small else 0.08,
        max_leaf_nodes=8 if small else 31,
        min_samples_leaf=20 if small else 40,
        categorical_features=list(range(len(attributes))),
        random_state=0,
    )
    return np.concatenate([np.stack(plain, axis=1), rates_of(data, rows), extra], axis=1), model


class Table:
    """Collects the lines.

    Args:
        data: the data set.
    """

    def __init__(self, data: DataSet):
        self._schema = data.schema
        self.lines: list[dict[str, object]] = []

    def fit(
        self,
        name: str,
        kind: str,
        limit: int,
        rows: Columns,
        inputs: np.ndarray,
        model: HistGradientBoostingClassifier | LogisticRegression,
    ) -> None:
        """Train on days 2-8 of the rows and add the scores of days 9-11."""
        train = (rows["day"] >= FIRST_DAY) & (rows["day"] <= LAST_TRAINED)
        model.fit(inputs[train], rows["label"][train])
        self.add(name, kind, limit, rows, model.predict_proba(inputs)[:, 1])

    def add(self, name: str, kind: str, limit: int, rows: Columns, p: np.ndarray) -> None:
        """One line per vertical that has rows, and one for all verticals together."""
        members = {v: [self._schema.domain_index(v)] for v in self._schema.verticals}
        if kind == "all":
            members = {"pooled": [code for (code,) in members.values()]} | members
        for vertical, codes in members.items():
            of = (rows["day"] > LAST_TRAINED) & np.isin(rows["domain"], codes)
            if of.any():
                values = (
                    name,
                    kind,
                    limit,
                    vertical,
                    of.sum(),
                    round(roc_auc_score(rows["label"][of], p[of]), 4),
                )
                self.lines.append(dict(zip(COLUMNS, values, strict=True)))


def main(arguments: Sequence[str]) -> int:
    """Folder of the data set, CSV to write."""
    folder, target = arguments
    lines = study(DataSet.open(folder), "category")
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with open(target, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
