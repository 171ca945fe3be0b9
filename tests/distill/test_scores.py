from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from distill.scores import (
    ScoreError,
    ScoreSums,
    auc,
    calibration,
    checked,
    constant_logloss,
    entropy,
    gauc,
    logloss,
    logloss_per_row,
    midranks,
    ne,
    oracle_ne,
)

ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30)


def test_logloss_by_hand():
    # sigmoid(log 3) = 3/4
    assert logloss([math.log(3), math.log(3)], [1, 0]) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_logloss_equals_scikit_learn():
    rng = np.random.default_rng(0)
    logit, label = rng.normal(size=500), rng.integers(0, 2, 500)
    assert logloss(logit, label) == pytest.approx(log_loss(label, 1 / (1 + np.exp(-logit))), rel=1e-12)


def test_logloss_of_extreme_logits_is_exact_not_clipped():
    np.testing.assert_allclose(
        logloss_per_row([1000.0, -1000.0, 1000.0, -50.0], [0, 1, 1, 0]),
        [1000.0, 1000.0, 0.0, math.exp(-50)],
        rtol=1e-12,
    )


def test_logloss_of_float32_logits_sums_in_float64():
    logit = np.full(3_000_000, np.float32(0.1))
    exact = math.log1p(math.exp(-float(np.float32(0.1))))
    assert logloss(logit, np.ones(len(logit))) == pytest.approx(exact, rel=1e-12)


def test_entropy_by_hand():
    assert entropy(0.5) == pytest.approx(math.log(2))
    assert entropy(0.2) == pytest.approx(-0.2 * math.log(0.2) - 0.8 * math.log(0.8))


def test_ne_of_the_constant_at_its_own_rate_is_one():
    label = np.array([1, 0, 0, 0])
    logit = np.full(4, math.log(1 / 3))
    assert ne(logloss(logit, label), 0.25) == pytest.approx(1.0)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_ne_without_entropy_is_undefined(p):
    assert ne(0.3, p) is None


def test_constant_logloss_predicts_p_on_the_same_rows():
    assert constant_logloss([1, 0, 0, 1], 0.2) == pytest.approx(-(math.log(0.2) + math.log(0.8)) / 2)


def test_constant_logloss_of_a_certain_rate():
    assert constant_logloss([0, 0], 0.0) == 0.0
    assert constant_logloss([0, 1], 0.0) is None


def test_oracle_ne_by_hand():
    expected = -(math.log(0.9) + math.log(0.6)) / 2 / math.log(2)
    assert oracle_ne([0.9, 0.4], [1, 0], 0.5) == pytest.approx(expected)


def test_oracle_may_be_certain_when_it_is_right():
    assert oracle_ne([1.0, 0.0], [1, 0], 0.5) == 0.0


@pytest.mark.parametrize("probability", [0.0, 1.2, -0.1])
def test_impossible_truth_is_refused(probability):
    with pytest.raises(ScoreError, match=r"true_probability: got .* in row \[1\]"):
        oracle_ne([0.5, probability], [1, 1], 0.5)


def test_calibration_by_hand():
    assert calibration([0.0, 0.0, 0.0], [1, 0, 0]) == pytest.approx(1.5)


def test_calibration_without_a_positive_is_undefined():
    assert calibration([0.0, 1.0], [0, 0]) is None


def test_midranks_by_hand():
    np.testing.assert_array_equal(midranks(np.array([5.0, 1.0, 5.0, 7.0])), [2.5, 1.0, 2.5, 4.0])


@given(ROWS)
def test_auc_with_ties_equals_scikit_learn(rows):
    logit, label = (np.array(column) for column in zip(*rows, strict=True))
    if len(set(label)) == 1:
        assert auc(logit, label) is None
    else:
        assert auc(logit, label) == pytest.approx(roc_auc_score(label, logit), abs=1e-12)


def test_auc_of_all_ties_is_one_half():
    assert auc([0.3] * 5, [1, 0, 0, 1, 0]) == 0.5


def _gauc_by_loop(logit, label, user):
    found = [(label[user == u], logit[user == u]) for u in np.unique(user)]
    found = [(y, z) for y, z in found if 0 < y.sum() < len(y)]
    return np.average([roc_auc_score(y, z) for y, z in found], weights=[len(y) for y, _ in found])


@given(st.integers(0, 1000))
def test_gauc_equals_a_loop_over_users(seed):
    rng = np.random.default_rng(seed)
    user, logit, label = rng.integers(-4, 4, 80), rng.integers(0, 5, 80) / 2, rng.integers(0, 2, 80)
    assert gauc(logit, label, user, min_users=1) == pytest.approx(
        _gauc_by_loop(logit, label, user), abs=1e-12
    )


def test_gauc_weights_users_by_impressions_and_drops_one_class_users():
    # user 1: AUC 1 over 2 rows; user 2: AUC 0 over 4 rows; user 3 has one class
    user, label, logit = [1, 1, 2, 2, 2, 2, 3], [1, 0, 1, 0, 0, 0, 1], [2, 1, 0, 1, 2, 3, 9]
    assert gauc(logit, label, user, min_users=1) == pytest.approx(2 / 6)


@pytest.mark.parametrize(("users", "defined"), [(199, False), (200, True)])
def test_gauc_is_undefined_under_200_two_class_users(users, defined):
    user = np.repeat(np.arange(users + 50), 2)
    label = np.tile([0, 1], users + 50)
    label[2 * users :] = 1  # the last 50 users have one class
    assert gauc(label * 1.0, label, user) == (1.0 if defined else None)


def test_split_updates_equal_one_update():
    rng = np.random.default_rng(1)
    logit, label, day = rng.normal(size=1000) * 5, rng.integers(0, 2, 1000), rng.integers(0, 3, 1000)
    whole, parts = ScoreSums(3), ScoreSums(3)
    whole.update(logit, label, day)
    for rows in np.array_split(np.arange(1000), 7):
        parts.update(logit[rows], label[rows], day[rows])
    np.testing.assert_array_equal(parts.examples, whole.examples)
    np.testing.assert_array_equal(parts.positives, whole.positives)
    np.testing.assert_allclose(parts.logloss, whole.logloss, rtol=1e-12)
    np.testing.assert_allclose(parts.calibration, whole.calibration, rtol=1e-12)


def test_sums_are_per_group():
    sums = ScoreSums(2)
    sums.update([0.0, 0.0, math.log(3)], [1, 0, 1], [0, 0, 1])
    np.testing.assert_allclose(sums.logloss, [math.log(2), math.log(4 / 3)])
    np.testing.assert_allclose(sums.calibration, [1.0, 0.75])


def test_a_group_without_rows_is_nan():
    sums = ScoreSums(2)
    sums.update([0.0], [0])
    assert np.isnan(sums.logloss[1])
    assert np.isnan(sums.calibration).all()


def test_a_group_out_of_range_is_refused():
    with pytest.raises(ScoreError, match=r"group: .* allowed: one per row in \[0, 2\)"):
        ScoreSums(2).update([0.0], [0], [2])


@pytest.mark.parametrize("score", [logloss, calibration, auc])
def test_no_rows_are_refused(score):
    with pytest.raises(ScoreError, match="got no rows"):
        score([], [])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_name_their_rows(bad):
    with pytest.raises(ScoreError, match=r"logit: got .* in row \[1\] \(1 rows\), allowed: finite"):
        logloss([0.0, bad], [0, 1])


def test_a_nan_logit_names_its_example():
    with pytest.raises(ScoreError, match=r"example_id \[71\]"):
        checked([0.0, math.nan], [0, 1], np.array([70, 71]))


@pytest.mark.parametrize("bad", [-1, 2, 0.5, math.nan])
def test_labels_outside_zero_and_one_are_refused(bad):
    with pytest.raises(ScoreError, match=r"label: got .* in row \[0\]"):
        auc([0.0, 1.0], [bad, 1])


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ScoreError, match="shapes"):
        logloss([0.0, 1.0], [1])
    with pytest.raises(ScoreError, match="user_id"):
        gauc([0.0, 1.0], [1, 0], [3])


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_rate_outside_zero_to_one_is_refused(p):
    with pytest.raises(ScoreError, match="base rate p"):
        ne(0.5, p)
