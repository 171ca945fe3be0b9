from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare, poisson

from distill.bootstrap import UserTotals, bootstrap_means, poisson_weights

USERS = np.arange(3000) * 17 - 20_000


@pytest.fixture(scope="module")
def weights():
    return poisson_weights(USERS, 500)


def test_weights_are_poisson_of_mean_one(weights):
    counts = np.bincount(np.minimum(weights.astype(int).ravel(), 7), minlength=8)
    shares = np.append(poisson.pmf(np.arange(7), 1.0), poisson.sf(6, 1.0))
    assert chisquare(counts, shares * weights.size).pvalue > 1e-3


def test_weights_of_users_and_of_draws_are_uncorrelated(weights):
    between_users = np.corrcoef(weights[:, :200], rowvar=False)[np.triu_indices(200, 1)]
    between_draws = np.corrcoef(weights[:200])[np.triu_indices(200, 1)]
    # standard errors of a correlation: 1/sqrt(500) and 1/sqrt(3000)
    assert between_users.std() == pytest.approx(500**-0.5, rel=0.05)
    assert between_draws.std() == pytest.approx(3000**-0.5, rel=0.05)
    assert abs(between_users.mean()) < 2e-3


def test_a_user_has_the_same_weights_among_any_others(weights):
    np.testing.assert_array_equal(poisson_weights(USERS[[2500, 3]], 500), weights[:, [2500, 3]])


def test_fewer_draws_are_the_first_ones(weights):
    np.testing.assert_array_equal(poisson_weights(USERS[:9], 20), weights[:20, :9])


def test_another_seed_gives_other_weights(weights):
    other = poisson_weights(USERS[:200], 500, seed=1)
    assert abs(np.corrcoef(other.ravel(), weights[:, :200].ravel())[0, 1]) < 0.02


def test_means_equal_the_weighted_means_of_rows():
    rng = np.random.default_rng(0)
    users = np.sort(rng.choice(5000, 1300, replace=False))
    other = users[::3]  # a score of a third of the users, across block borders
    first = UserTotals(users, rng.normal(size=len(users)), rng.integers(1, 5, len(users)).astype(float))
    second = UserTotals(other, rng.normal(size=len(other)), np.ones(len(other)))
    means = bootstrap_means([first, second], 50)
    for column, score in enumerate((first, second)):
        w = poisson_weights(score.user_id, 50)
        expected = (w * score.total).sum(1) / (w * score.rows).sum(1)
        np.testing.assert_allclose(means[:, column], expected, rtol=1e-12)


def test_a_draw_without_users_is_nan():
    one = UserTotals(np.array([5]), np.array([2.0]), np.array([1.0]))
    means = bootstrap_means([one], 100)[:, 0]
    empty = poisson_weights(np.array([5]), 100)[:, 0] == 0
    assert 20 < empty.sum() < 60
    np.testing.assert_array_equal(np.isnan(means), empty)


def test_no_scores_give_no_columns():
    assert bootstrap_means([], 10).shape == (10, 0)


def test_spread_of_a_mean_is_its_standard_error():
    rng = np.random.default_rng(1)
    n = 2000
    values = rng.normal(size=n)
    draws = bootstrap_means([UserTotals(np.arange(n), values, np.ones(n))], 2000)[:, 0]
    assert draws.std() == pytest.approx(values.std() / np.sqrt(n), rel=0.05)
