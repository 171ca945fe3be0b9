"""Losses against sums written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distill.losses import base_rate_logits, label_loss, masked_bce, sampled_rates, scale_gradient, start_bias

LOGITS = torch.tensor([[0.5, -2.0], [1.5, 0.0], [-0.3, 3.0]])
TARGETS = torch.tensor([[1.0, 0.3], [0.0, 0.9], [0.2, 1.0]])
MASK = torch.tensor([[True, True], [False, True], [True, False]])


def cross_entropy(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def mean_of(task: int, rows: list[int]) -> float:
    return float(np.mean([cross_entropy(LOGITS[r, task].item(), TARGETS[r, task].item()) for r in rows]))


def test_masked_mean_per_task_summed_over_tasks() -> None:
    expected = mean_of(0, [0, 2]) + mean_of(1, [0, 1])
    assert masked_bce(LOGITS, TARGETS, MASK).item() == pytest.approx(expected, rel=1e-6)
    assert label_loss(LOGITS, TARGETS, MASK).item() == pytest.approx(expected, rel=1e-6)


def test_task_weights() -> None:
    expected = 2 * mean_of(0, [0, 2]) + 0.5 * mean_of(1, [0, 1])
    weights = torch.tensor([2.0, 0.5])
    assert masked_bce(LOGITS, TARGETS, MASK, weights).item() == pytest.approx(expected, rel=1e-6)


def test_task_without_a_row_adds_nothing() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = masked_bce(logits, TARGETS, MASK & torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == pytest.approx(mean_of(0, [0, 2]), rel=1e-6)
    assert logits.grad is not None and logits.grad[:, 1].tolist() == [0, 0, 0]


def test_no_row_at_all_is_exactly_zero() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = masked_bce(logits, TARGETS, torch.zeros_like(MASK))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_no_gradient_where_the_prediction_equals_the_target() -> None:
    logits = LOGITS.clone().requires_grad_()
    masked_bce(logits, LOGITS.sigmoid(), MASK).backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-7


def test_scaled_gradient() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = scale_gradient(x, 0.25)
    (y * torch.tensor([3.0, 5.0])).sum().backward()
    assert torch.equal(y, x)
    assert x.grad is not None and x.grad.tolist() == [0.75, 1.25]


def test_base_rate_logits() -> None:
    rates = {
        "click": torch.tensor([0.2, math.nan], dtype=torch.float64),
        "buy": torch.tensor([0.1, 0.3], dtype=torch.float64),
        "never": torch.tensor([0.0, math.nan], dtype=torch.float64),
    }
    expected = [math.log(0.2 / 0.8), math.log(0.2 / 0.8), math.log(1e-4 / (1 - 1e-4))]
    assert base_rate_logits(rates, ["click", "buy", "never"]).tolist() == pytest.approx(expected)
    assert base_rate_logits(rates, ["click"], factor=2.0).tolist() == pytest.approx([math.log(0.4 / 0.6)])
    assert base_rate_logits(rates, ["click"], factor=9.0).tolist() == pytest.approx([-expected[2]], rel=1e-3)


def test_rates_of_sampled_rows() -> None:
    """A quarter of the negatives is kept: of 20 positives and 80 negatives, 20 of 40."""
    rates = {"click": torch.tensor([0.2, math.nan, 0.0, 1.0], dtype=torch.float64)}
    assert sampled_rates(rates, math.log(0.25))["click"].tolist() == pytest.approx(
        [0.5, math.nan, 0, 1], nan_ok=True
    )
    assert sampled_rates(rates, 0.0)["click"] is rates["click"]


def test_bias_without_a_rate_stays() -> None:
    bias = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    start_bias(bias, torch.tensor([math.nan, 5.0]))
    assert bias.tolist() == [1.0, 5.0]


def test_targets_outside_0_and_1_are_neither_refused_nor_cut_off() -> None:
    """binary_cross_entropy_with_logits does not check them; estimates of labels (distill.delay) rely on that."""
    targets = torch.tensor([[4.0, 0.0], [0.0, 10.0], [-0.5, 1.0]])
    logits = LOGITS.clone().requires_grad_()
    loss = label_loss(logits, targets, torch.ones_like(MASK))
    loss.backward()
    z, t = LOGITS.double().numpy(), targets.double().numpy()
    assert loss.item() == pytest.approx((np.log1p(np.exp(z)) - t * z).mean(axis=0).sum(), rel=1e-6)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), (1 / (1 + np.exp(-z)) - t) / 3, rtol=1e-6)


def test_an_unbiased_estimate_of_a_label_gives_the_labels_loss_and_gradient_in_expectation() -> None:
    """1/4 of the positives are seen and count 4: the mean over all that can be seen is what the label itself gives."""
    z = torch.tensor([[-1.3]])

    def of(target: float) -> tuple[float, float]:
        logit = z.clone().requires_grad_()
        loss = label_loss(logit, torch.tensor([[target]]), torch.ones(1, 1, dtype=torch.bool))
        loss.backward()
        assert logit.grad is not None
        return loss.item(), logit.grad.item()

    seen, unseen = of(4.0), of(0.0)
    expected = [0.25 * a + 0.75 * b for a, b in zip(seen, unseen, strict=True)]
    assert expected == pytest.approx(of(1.0), rel=1e-5)
