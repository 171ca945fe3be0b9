from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from distill.intercept import fit_intercept
from distill.scores import ScoreError, logloss


def test_equal_logits_move_to_the_rate():
    # sigmoid(2 + b) = 1/4
    assert fit_intercept([2.0] * 4, [1, 0, 0, 0]) == pytest.approx(np.log(1 / 3) - 2.0)


def test_predictions_sum_to_the_positives():
    rng = np.random.default_rng(0)
    logit, label = rng.normal(size=1000) * 3 + 4, rng.random(1000) < 0.1
    b = fit_intercept(logit, label)
    assert b is not None
    assert (1 / (1 + np.exp(-(logit + b)))).sum() == pytest.approx(label.sum(), rel=1e-9)


def test_it_minimises_the_logloss():
    rng = np.random.default_rng(1)
    logit, label = rng.normal(size=300), rng.random(300) < 0.3
    found = minimize_scalar(lambda b: logloss(logit + b, label), bracket=(-3, 3), tol=1e-12)
    assert fit_intercept(logit, label) == pytest.approx(found.x, abs=1e-6)


def test_a_calibrated_model_keeps_its_logits():
    assert fit_intercept([0.0, 0.0], [0, 1]) == pytest.approx(0.0, abs=1e-12)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20),
    st.integers(1, 19),
)
def test_any_logits_end_at_the_rate_or_within_rounding_of_it(logits, positives):
    label = np.arange(len(logits)) < min(positives, len(logits) - 1)
    b = fit_intercept(logits, label)
    assert b is not None
    shifted = np.array(logits) + b
    below, above = (1 / (1 + np.exp(np.clip(-(shifted + e), -700, 700))) for e in (-1e-6, 1e-6))
    assert below.sum() - 1e-6 <= label.sum() <= above.sum() + 1e-6


@pytest.mark.parametrize("label", [[0, 0], [1, 1]])
def test_one_class_has_no_intercept(label):
    assert fit_intercept([0.3, 0.4], label) is None


def test_nan_is_refused():
    with pytest.raises(ScoreError, match="logit"):
        fit_intercept([np.nan, 0.0], [0, 1])
