from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from distill.interval import Statistic, combine, difference, estimate, ratio
from distill.scores import ScoreError


def statistic(per_seed, draws, seeds=None):
    per_seed = np.asarray(per_seed, float)
    return Statistic(tuple(seeds or range(len(per_seed))), per_seed, np.asarray(draws, float))


def draws_around(mean, sd, count=4000, seed=0):
    """Draws with exactly this mean and standard deviation."""
    x = np.random.default_rng(seed).normal(size=count)
    return mean + sd * (x - x.mean()) / x.std(ddof=1)


def test_variances_of_draws_and_of_seeds_add():
    found = estimate(statistic([1.0, 2.0, 3.0], draws_around(2.0, 0.5)))
    half = stats.t.ppf(0.975, 2) * np.sqrt(0.5**2 + 1.0 / 3)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0 - half, 2.0 + half))


def test_one_seed_counts_the_draws_alone():
    found = estimate(statistic([2.0], draws_around(2.0, 0.5)))
    assert found.seeds == 1
    assert (found.low, found.high) == pytest.approx((2.0 - 1.959964 * 0.5, 2.0 + 1.959964 * 0.5))


def test_an_undefined_draw_leaves_no_interval():
    found = estimate(statistic([2.0, 2.0], [1.0, np.nan, 2.0]))
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert not found.above_zero and not found.excludes_zero


def test_paired_noise_cancels_in_a_difference():
    noise = draws_around(0.0, 5.0)
    a = statistic([10.0, 20.0, 30.0], 20.0 + noise)
    b = statistic([9.0, 19.0, 29.0], 19.0 + noise)
    found = difference(a, b)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert found.above_zero and found.excludes_zero


def test_a_difference_below_zero_excludes_it_but_is_not_above():
    found = difference(statistic([1.0], draws_around(1.0, 0.1)), statistic([2.0], np.full(4000, 2.0)))
    assert found.excludes_zero and not found.above_zero


def test_combine_scales_values_and_draws():
    total = combine([(1.0, statistic([1.0, 2.0], [1.0, 3.0])), (-2.0, statistic([0.5, 0.5], [1.0, 1.0]))])
    np.testing.assert_array_equal(total.per_seed, [0.0, 1.0])
    np.testing.assert_array_equal(total.draws, [-1.0, 1.0])


def test_seeds_that_differ_are_refused():
    with pytest.raises(ScoreError, match=r"seeds: got \(0, 1\) and \(0, 2\)"):
        difference(statistic([1.0, 1.0], [1.0]), statistic([1.0, 1.0], [1.0], seeds=(0, 2)))


def test_a_reference_of_one_seed_is_shared():
    shared = statistic([3.0], [3.0, 4.0], seeds=(7,)).shared_by((0, 1))
    np.testing.assert_array_equal(shared.per_seed, [3.0, 3.0])
    assert shared.seeds == (0, 1)


def test_a_reference_of_other_seeds_is_refused():
    with pytest.raises(ScoreError, match=r"got \(5, 6\), allowed: \(0, 1, 2\), or exactly one seed"):
        statistic([3.0, 3.0], [3.0], seeds=(5, 6)).shared_by((0, 1, 2))


def test_ratio_with_a_clear_denominator_equals_the_delta_method():
    numerator = statistic([0.50, 0.52], draws_around(0.51, 0.01, seed=1))
    denominator = statistic([1.00, 1.02], draws_around(1.01, 0.002, seed=2))
    found = ratio(numerator, denominator)
    tr = 0.51 / 1.01
    cov = np.cov([numerator.draws, denominator.draws]) + np.cov([[0.50, 0.52], [1.00, 1.02]]) / 2
    slope = np.array([1.0, -tr]) / 1.01
    half = stats.t.ppf(0.975, 1) * np.sqrt(slope @ cov @ slope)
    assert found.value == pytest.approx(tr)
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)


def test_ends_of_a_ratio_are_where_the_difference_touches_zero():
    numerator = statistic([0.4, 0.5, 0.9], draws_around(0.6, 0.1, seed=1))
    denominator = statistic([1.0, 1.2, 1.4], draws_around(1.2, 0.1, seed=2))
    found = ratio(numerator, denominator)
    for end in (found.low, found.high):
        assert end is not None
        test = estimate(combine([(1.0, numerator), (-end, denominator)]))
        assert test.low is not None and test.high is not None
        assert min(abs(test.low), abs(test.high)) < 1e-12


@pytest.mark.parametrize("denominator", [0.1, -5.0])
def test_a_denominator_not_above_zero_leaves_no_ratio(denominator):
    found = ratio(
        statistic([1.0], draws_around(1.0, 0.1)), statistic([denominator], draws_around(denominator, 0.2))
    )
    assert (found.value, found.low, found.high, found.seeds) == (None, None, None, 1)


def test_a_ratio_refuses_seeds_that_differ():
    with pytest.raises(ScoreError, match="seeds"):
        ratio(statistic([1.0, 1.0], [1.0, 1.0]), statistic([1.0], [1.0, 1.0]))
