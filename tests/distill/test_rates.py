from __future__ import annotations

import numpy as np
import pytest

from distill.rates import RateCounter, base_rate
from distill.scores import ScoreError

DOMAINS = ("feed", "reels", "other")


def counter(tasks=("click",)):
    return RateCounter(DOMAINS, ("feed", "reels"), tasks, range(1, 12))


def test_rates_by_hand():
    count = counter()
    count.update([0, 0, 0, 1, 2], 1, {"click": [1, 0, 0, 1, 1]})
    assert count.rates() == {"feed": {"click": 1 / 3}, "reels": {"click": 1.0}, "pooled": {"click": 0.5}}


def test_other_days_and_unknown_labels_do_not_count():
    count = counter(("click", "buy"))
    day = np.array([1, 11, 12, 1, 1])
    count.update([0, 0, 0, 0, 1], day, {"click": [1, 0, 1, -1, 0], "buy": [-1, 1, 1, 1, 0]})
    rates = count.rates()
    assert rates["feed"] == {"click": 1 / 2, "buy": 1.0}
    assert rates["pooled"] == {"click": 1 / 3, "buy": 2 / 3}


def test_parts_add_up():
    rng = np.random.default_rng(0)
    domain, label = rng.integers(0, 3, 100), rng.integers(-1, 2, 100)
    whole, parts = counter(), counter()
    whole.update(domain, 3, {"click": label})
    for rows in np.array_split(np.arange(100), 3):
        parts.update(domain[rows], 3, {"click": label[rows]})
    assert parts.rates() == whole.rates()


def test_a_vertical_without_labels_is_named():
    count = counter()
    count.update([0], 1, {"click": [1]})
    with pytest.raises(ScoreError, match=r"\(reels, click\): no labelled row in days \[1, 2"):
        count.rates()


@pytest.mark.parametrize(
    ("domain", "labels", "message"),
    [
        ([3], {"click": [1]}, r"domain: got 3 to 3, allowed: \[0, 3\)"),
        ([-1], {"click": [1]}, "domain: got -1"),
        ([0], {"click": [2]}, "labels of click"),
        ([0], {"click": [0.5]}, "labels of click"),
        ([0], {"click": [1, 1]}, "labels of click"),
        ([0], {"buy": [1]}, "labels: got tasks buy, allowed: click"),
    ],
)
def test_bad_rows_are_refused(domain, labels, message):
    with pytest.raises(ScoreError, match=message):
        counter().update(domain, 1, labels)


def test_a_rate_that_is_not_there_is_named():
    assert base_rate({"feed": {"click": 0.3}}, "feed", "click") == 0.3
    with pytest.raises(ScoreError, match=r"got none for \(feed, buy\), allowed: \(feed, click\)"):
        base_rate({"feed": {"click": 0.3}}, "feed", "buy")
