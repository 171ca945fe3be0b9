"""The study of what a data set's rates and histories know: its features by hand, its committed table."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.studies.learnability import COLUMNS, earlier_rates, history_features, read_days
from tests.distill.prepared_data import write_small

RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "simulator_learnability.csv"


def test_rates_know_only_earlier_days() -> None:
    rows = {"day": np.array([1, 1, 2, 2, 3]), "label": np.array([1, 0, 1, 1, 0])}
    found = earlier_rates(rows, np.array([0, 1, 0, 1, 0]))
    # Day 1 knows nothing; day 2 adds 10 rows of rate 1/2 to one row each; day 3 adds 10 of 3/4 to two clicks of two.
    assert found[:2].tolist() == [0.0, 0.0]
    assert found[2:4].tolist() == pytest.approx([math.log(6 / 5), math.log(5 / 6)])
    assert found[4] == pytest.approx(math.log(9.5 / 2.5))


def test_history_features_look_at_the_last_events_only(tmp_path: Path) -> None:
    """Ten rows a day: user r % 5, item r % 7, click at r % 3 == 0; users' events are their rows of earlier times."""
    data = write_small(tmp_path / "d", days=11, rows=10)
    rows = read_days(data)
    assert set(rows) == {
        "example_id",
        "user_id",
        "timestamp",
        "domain",
        "item_id",
        "price",
        "length",
        "day",
        "label",
    }
    category = np.array([1, 1, 1, 2, 2, 0, 0])
    two = history_features(data, rows, category, limit=2)
    # Row 5 of day 2 is user 0 with item 5 of unknown category, after r = 5 of day 1 (no click) and r = 0 (click).
    place = 15
    assert rows["user_id"][place] == 0 and rows["timestamp"][place] == 1500
    # Of each surface's five rows a day two are clicked: a rate of 0.4 on both.
    assert two[place].tolist() == pytest.approx([2, 0.2 / 7, 0, 0, 0, 0])
    # Row 8 of day 2, user 3, item 1: before it r = 8 of day 1 (item 1, no click) and r = 3 of day 2 (item 3, click).
    assert two[18].tolist() == pytest.approx([2, 0.2 / 7, 1, 1 / 7, -0.4 / 3, 1])
    assert history_features(data, rows, category, limit=2, piece=7).tolist() == two.tolist()


def test_the_committed_table_answers_the_three_questions() -> None:
    with RESULTS.open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    auc = {(x["model"], x["rows"], x["history"], x["vertical"]): float(x["auc"]) for x in lines}
    assert 0.70 <= auc["logistic regression on rates", "all", "0", "pooled"] <= 0.75
    assert 0.80 <= auc["true probability", "all", "0", "pooled"] <= 0.84
    old = auc["boosted trees", "all", "100000", "pooled"] - auc["boosted trees", "all", "50", "pooled"]
    assert old > 0.01
    for small in ("explore", "stories", "search", "inbox"):
        assert auc["boosted trees", "all", "0", small] - auc["boosted trees", "own", "0", small] > 0.015
