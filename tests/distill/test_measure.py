from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from distill.bootstrap import UserTotals, bootstrap_means, poisson_weights
from distill.interval import Statistic, estimate, ratio
from distill.measure import auc_per_row, measure
from distill.scores import ScoreError
from tests.distill.prediction_data import STUDENT, TEACHER, predictions, write_run

RATES = {v: {"click": 0.3} for v in ("feed", "reels", "pooled")}
H = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))


def rows(n=400, seed=0, users=100, **columns):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(int)
    return predictions(rng.normal(size=n) + label, label, user_id=rng.integers(0, users, n), **columns)


def defined(value):
    assert value is not None
    return value


def measured(sources, *arguments, **options) -> list[dict[Any, Any]]:
    return measure(sources, *arguments, **options)


def weighted_auc(logit, label, weight):
    """AUC in which a row counts `weight` times; None of the code under test."""
    order = np.argsort(logit)
    label, weight = label[order], weight[order]
    below = np.cumsum(np.where(label == 0, weight, 0.0))
    return (below * weight * label).sum() / (weight * label).sum() / (weight * (1 - label)).sum()


def test_auc_values_average_to_one_minus_auc_with_ties():
    label, logit = np.array([1, 0, 1, 0, 0, 1]), np.array([2.0, 2.0, 1.0, 0.0, 3.0, 0.0])
    assert defined(auc_per_row(logit, label)).mean() == pytest.approx(
        1 - roc_auc_score(label, logit), abs=1e-12
    )


def test_auc_of_one_class_has_no_values():
    assert auc_per_row(np.array([1.0, 2.0]), np.array([1, 1])) is None


@pytest.mark.parametrize("n", [800, 4000])  # 800 rows: the size of the smallest vertical's test set
def test_auc_to_first_order_spreads_like_reweighted_auc(n):
    rng = np.random.default_rng(3)
    user = rng.integers(0, n // 3, n)
    taste = rng.normal(size=n // 3)[user]  # rows of a user go together
    label = (rng.random(n) < 1 / (1 + np.exp(-taste))).astype(int)
    logit = 0.7 * taste + rng.normal(size=n)
    users, place = np.unique(user, return_inverse=True)
    total = np.bincount(place, defined(auc_per_row(logit, label))).astype(float)
    first_order = bootstrap_means([UserTotals(users, total, np.bincount(place).astype(float))], 500)[:, 0]
    exact = np.array([1 - weighted_auc(logit, label, w[place]) for w in poisson_weights(users, 500)])
    assert np.corrcoef(first_order, exact)[0, 1] > 0.995
    assert first_order.std() == pytest.approx(exact.std(), rel=0.03)
    assert abs(first_order.mean() - exact.mean()) < 0.1 * exact.std()


def test_losses_equal_scikit_learn_and_numpy(tmp_path):
    seeds = {0: rows(seed=0), 1: rows(seed=0)}
    seeds[1] = dataclasses.replace(seeds[1], logits={"click": seeds[1].logits["click"] * 2})
    (found,) = measured(write_run(tmp_path, {STUDENT: seeds}), ["feed", "reels"], RATES, "tune", draws=30)
    assert set(found) == {("feed", "click", kind) for kind in ("ne", "auc", "ne_intercept")}
    label = seeds[0].labels["click"]
    users, place = np.unique(seeds[0].user_id, return_inverse=True)
    weights = poisson_weights(users, 30)[:, place]
    logits = [p.logits["click"].astype(float) for p in seeds.values()]
    ne = [log_loss(label, 1 / (1 + np.exp(-z))) / H for z in logits]
    drawn = [[log_loss(label, 1 / (1 + np.exp(-z)), sample_weight=w) / H for w in weights] for z in logits]
    np.testing.assert_allclose(found["feed", "click", "ne"].per_seed, ne, rtol=1e-6)
    np.testing.assert_allclose(found["feed", "click", "ne"].draws, np.mean(drawn, axis=0), rtol=1e-6)
    auc = [1 - roc_auc_score(label, z) for z in logits]
    np.testing.assert_allclose(found["feed", "click", "auc"].per_seed, auc, atol=1e-12)


def test_intercept_removes_a_shift_fitted_on_the_tune_days(tmp_path):
    rng = np.random.default_rng(0)
    split = np.repeat(["tune", "test"], 1000)
    logit = rng.normal(size=2000)
    label = rng.random(2000) < 1 / (1 + np.exp(-logit))
    shifted = {STUDENT: {0: predictions(logit + 3, label, split=split)}}
    straight = {STUDENT: {0: predictions(logit, label, split=split)}}
    (a,) = measured(write_run(tmp_path / "a", shifted), ["feed"], RATES, "test", draws=10)
    (b,) = measured(write_run(tmp_path / "b", straight), ["feed"], RATES, "test", draws=10)
    key = ("feed", "click")
    assert a[(*key, "ne")].value > b[(*key, "ne")].value + 0.5
    assert a[(*key, "ne_intercept")].value == pytest.approx(b[(*key, "ne_intercept")].value, rel=1e-5)


def test_a_teacher_is_measured_on_the_students_rows(tmp_path):
    both = rows(600, domain=np.repeat(["feed", "reels"], 300))
    student = both.take(np.arange(50, 300)[::-1])  # in another order
    results = measured(
        write_run(tmp_path, {STUDENT: {0: student}, TEACHER: {0: both}}), ["feed"], RATES, "tune", 10
    )
    for kind in ("ne", "auc"):
        a, b = (found["feed", "click", kind] for found in results)
        assert a.value == pytest.approx(b.value, rel=1e-12)
        np.testing.assert_allclose(a.draws, b.draws, rtol=1e-12)


def test_teachers_alone_are_measured_on_every_vertical_and_pooled(tmp_path):
    both = rows(600, domain=np.repeat(["feed", "reels"], 300))
    (found,) = measured(write_run(tmp_path, {TEACHER: {0: both}}), ["feed", "reels"], RATES, "tune", 10)
    assert {vertical for vertical, _, _ in found} == {"feed", "reels", "pooled"}


def test_unknown_labels_are_left_out(tmp_path):
    p = rows()
    unknown = dataclasses.replace(p, labels={"click": np.where(np.arange(400) < 100, -1, p.labels["click"])})
    whole = measured(write_run(tmp_path / "a", {STUDENT: {0: unknown}}), ["feed"], RATES, "tune", 10)
    part = measured(
        write_run(tmp_path / "b", {STUDENT: {0: p.take(np.arange(100, 400))}}), ["feed"], RATES, "tune", 10
    )
    key = ("feed", "click", "ne")
    np.testing.assert_allclose(whole[0][key].draws, part[0][key].draws, rtol=1e-12)


def test_one_class_leaves_auc_and_intercept_undefined(tmp_path):
    p = predictions(np.zeros(30), np.zeros(30))
    (found,) = measured(write_run(tmp_path, {STUDENT: {0: p}}), ["feed"], RATES, "tune", 10)
    assert found["feed", "click", "auc"] is None
    assert found["feed", "click", "ne_intercept"] is None
    assert found["feed", "click", "ne"].value == pytest.approx(np.log(2) / H)


def test_a_rate_without_entropy_leaves_ne_undefined(tmp_path):
    (found,) = measured(
        write_run(tmp_path, {STUDENT: {0: rows()}}), ["feed"], {"feed": {"click": 0.0}}, "tune", 10
    )
    assert found["feed", "click", "ne"] is None
    assert found["feed", "click", "auc"] is not None


def _two(tmp_path, second, cell):
    return write_run(tmp_path, {STUDENT: {0: rows()}, cell: {0: second}})


def test_missing_teacher_rows_are_counted(tmp_path):
    sources = _two(tmp_path, rows().take(np.arange(7, 400)), TEACHER)
    with pytest.raises(
        ScoreError, match=r"7 of 400 are missing \(example_id \[0, 1, 2, 3, 4\]\), 0 too many"
    ):
        measured(sources, ["feed"], RATES, "tune", 10)


def test_students_need_the_very_same_rows(tmp_path):
    more = rows(403)
    sources = _two(tmp_path, more, dataclasses.replace(STUDENT, channel="ah"))
    with pytest.raises(ScoreError, match=r"0 of 400 are missing .* 3 too many \(\[400, 401, 402\]\)"):
        measured(sources, ["feed"], RATES, "tune", 10)


def test_labels_that_differ_between_cells_are_refused(tmp_path):
    p = rows()
    other = dataclasses.replace(
        p, labels={"click": np.where(np.arange(400) == 5, 1 - p.labels["click"], p.labels["click"])}
    )
    sources = _two(tmp_path, other, TEACHER)
    with pytest.raises(
        ScoreError, match=r"labels of click .* 1 differ from another cell \(example_id \[5\]\)"
    ):
        measured(sources, ["feed"], RATES, "tune", 10)


def test_users_that_differ_between_cells_are_refused(tmp_path):
    sources = _two(tmp_path, dataclasses.replace(rows(), user_id=np.arange(400)), TEACHER)
    with pytest.raises(ScoreError, match="user_id of cell .* differs from another cell"):
        measured(sources, ["feed"], RATES, "tune", 10)


def test_a_task_without_labels_is_refused(tmp_path):
    sources = write_run(tmp_path, {STUDENT: {0: predictions([0.0, 1.0], [-1, -1])}})
    with pytest.raises(ScoreError, match="none of 2 rows has a label"):
        measured(sources, ["feed"], RATES, "tune", 10)


def test_a_missing_base_rate_is_refused(tmp_path):
    sources = write_run(tmp_path, {STUDENT: {0: rows()}})
    with pytest.raises(ScoreError, match=r"got none for \(feed, click\), allowed: \(feed, conversion\)"):
        measured(sources, ["feed"], {"feed": {"conversion": 0.1}}, "tune", 10)


def _intervals(seeds, user_sd, seed_sd, repetitions=200, users=300, draws=300):
    """Intervals of a mean of 1 and of a ratio of 0.5 in made-up data of users and seeds."""
    rng = np.random.default_rng(11)
    means, ratios = [], []
    for _ in range(repetitions):
        count = rng.integers(1, 5, users).astype(float)
        of_user, of_seed = rng.normal(size=(2, users)) * user_sd, rng.normal(size=(2, seeds)) * seed_sd
        statistics = []
        for mean, user, seed in zip((0.5, 1.0), of_user, of_seed, strict=True):
            total = (mean + user + seed.mean()) * count
            per_seed = mean + (user * count).sum() / count.sum() + seed
            drawn = bootstrap_means([UserTotals(np.arange(users), total, count)], draws)[:, 0]
            statistics.append(Statistic(tuple(range(seeds)), per_seed, drawn))
        means.append(estimate(statistics[1]))
        ratios.append(ratio(*statistics))
    return means, ratios


def _coverage(intervals, truth):
    return np.mean([found.low is not None and found.low <= truth <= found.high for found in intervals])


@pytest.mark.parametrize(
    ("seeds", "user_sd", "seed_sd", "low", "high"),
    [
        (1, 1.0, 0.0, 0.91, 0.99),  # users alone: the nominal 95 %
        (4, 0.0, 0.1, 0.91, 0.99),  # seeds alone: the nominal 95 %
        (4, 1.0, 0.1, 0.93, 1.0),  # both: at least the nominal
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(seeds, user_sd, seed_sd, low, high):
    means, ratios = _intervals(seeds, user_sd, seed_sd)
    assert low <= _coverage(means, 1.0) <= high
    assert low <= _coverage(ratios, 0.5) <= high
