"""Marginals of a prepared data set, by hand on small ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distill.describe import describe, distribution, drift
from distill.errors import DataError, UserError
from tests.distill.prepared_data import day_table, small_schema, write_content, write_one_day, write_small


def test_counts_and_rates_by_hand(tmp_path: Path) -> None:
    """Row r of a day: user r % 5, item r % 7, surface r % 2, click at r % 3 == 0, order at r % 6 == 0."""
    found = describe(write_small(tmp_path / "d", days=2, rows=10).folder)
    assert (found["rows"], found["days"], found["rows_per_day"]) == (20, 2, [10, 10])
    assert found["users"]["count"] == 5 and found["users"]["mean"] == 4.0
    # Of ten rows, items 0, 1 and 2 have two, the others one; both days alike.
    assert found["items"]["count"] == 7
    assert found["items"]["quantiles"][1.0] == 4.0 and found["items"]["quantiles"][0.5] == 2.0
    assert list(found["domains"]) == ["feed", "reels"]
    feed, reels = found["domains"]["feed"], found["domains"]["reels"]
    assert (feed["rows"], feed["share"], feed["users"], feed["items"]) == (10, 0.5, 5, 5)
    # feed: r = 0 2 4 6 8; clicks at 0 and 6. reels: r = 1 3 5 7 9; clicks at 3 and 9.
    assert feed["tasks"]["click"]["rate"] == reels["tasks"]["click"]["rate"] == 0.4
    assert feed["tasks"]["click"]["daily"] == [0.4, 0.4]
    # order is unknown at r = 4 (feed) and 9 (reels): feed has 0 and 6 of four, reels none of four.
    assert feed["tasks"]["order"]["rate"] == 0.5 and feed["tasks"]["order"]["rate_given_first"] == 1.0
    assert reels["tasks"]["order"]["rate"] == 0.0 and reels["tasks"]["order"]["positives"] == 0
    # Both days have users 0-4 on both surfaces: even and odd rows reach each of five users.
    assert found["domains_per_user"] == [0.0, 1.0]
    assert found["hours"][0] == 1.0
    assert found["events_per_user"]["count"] == 5 and found["events_per_user"]["mean"] == 4.0


def test_later_days_are_left_out(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "d", days=3, rows=10).folder
    found = describe(folder, through=2)
    assert (found["rows"], found["rows_per_day"]) == (20, [10, 10])
    assert len(found["domains"]["feed"]["tasks"]["click"]["daily"]) == 2


def test_labels_that_are_unknown_have_no_rate(tmp_path: Path) -> None:
    table = day_table(1, label_order=pa.array([None] * 10, pa.int8()), label_click=[0] * 10, domain=[0] * 10)
    found = describe(write_one_day(tmp_path / "d", table).folder)
    assert list(found["domains"]) == ["feed"]
    order = found["domains"]["feed"]["tasks"]["order"]
    assert order == {"positives": 0, "rate": None, "rate_given_first": None, "daily": [None], "drift": None}
    assert found["domains_per_user"] == [1.0, 0.0]


def test_modalities_by_hand(tmp_path: Path) -> None:
    """Of seven items, all but one have an image and one has a text."""
    assert describe(write_content(tmp_path / "d").folder)["content"] == {
        "image": {"width": 2, "known": 6 / 7},
        "text": {"width": 1, "known": 1 / 7},
    }
    assert describe(write_small(tmp_path / "plain").folder)["content"] == {}


def test_distribution_by_hand() -> None:
    found = distribution(np.array([1, 3]))
    assert found["gini"] == pytest.approx(
        0.25
    )  # mean difference 2 over twice the mean 2, both orders of the pair
    assert found["top_1_percent"] == found["top_10_percent"] == 0.75
    assert distribution(np.full(100, 7))["gini"] == pytest.approx(0.0)
    assert distribution(np.full(100, 7))["top_10_percent"] == pytest.approx(0.1)


def test_drift_by_hand() -> None:
    # Rates 0.2 and 0.6: variance 0.08; coin tosses of 0.4 at 100 rows: 0.0024.
    assert drift(np.array([20, 60]), np.array([100, 100])) == pytest.approx(math.sqrt(0.08 - 0.0024))
    assert drift(np.array([20, 20]), np.array([100, 100])) == 0.0
    assert drift(np.array([20, 0]), np.array([100, 0])) is None


@pytest.mark.parametrize("through", [0, 3, -1])
def test_a_day_that_is_not_there_is_refused(tmp_path: Path, through: int) -> None:
    folder = write_small(tmp_path / "d", days=2).folder
    with pytest.raises(UserError, match=f"through: got {through}, allowed: 1 to 2"):
        describe(folder, through=through)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    small_schema().save(tmp_path / "schema.yaml")
    with pytest.raises(DataError, match="no manifest.json"):
        describe(tmp_path)
