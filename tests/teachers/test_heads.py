"""Heads against sums and products of probabilities written out in float64 and in exact decimals."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import pytest
import torch
from torch import Tensor

from distill.errors import UserError
from teachers.heads import TaskHeads, parents_first, product_logit

DOMAINS, WIDTH = 3, 4
TASKS = ("click", "conversion")
SURFACES = torch.tensor([2, 0, 0, 2, 2])  # surface 1 is absent


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def make(tasks: tuple[str, ...] = TASKS, random: bool = True, **options) -> TaskHeads:
    torch.manual_seed(1)
    heads = TaskHeads(WIDTH, DOMAINS, tasks, **options).double()
    if random:
        with torch.no_grad():
            for p in heads.parameters():
                p.normal_()
    return heads


def single(heads: TaskHeads, hidden: Tensor, surface: int) -> Tensor:
    """Logits of one row, hidden [k, W], without products."""
    logits = []
    for t in range(len(heads.tasks)):
        weight = heads.shared.weight[t]
        if heads.own is not None:
            weight = weight + heads.own.weight[surface, t * WIDTH : (t + 1) * WIDTH]
        logits.append(weight @ hidden[t] + heads.surface_bias.weight[surface, t])
    return torch.stack(logits)


def restated(heads: TaskHeads, hidden: Tensor) -> Tensor:
    pairs = zip(hidden, SURFACES.tolist(), strict=True)
    return torch.stack([single(heads, row, surface) for row, surface in pairs])


@pytest.mark.parametrize("per_surface", [False, True])
@pytest.mark.parametrize("per_task", [False, True])
def test_logits_and_gradients_row_by_row(per_surface: bool, per_task: bool) -> None:
    heads = make(per_surface=per_surface)
    hidden = rows(5, 2, WIDTH) if per_task else rows(5, WIDTH)
    spread = hidden if per_task else hidden.unsqueeze(1).expand(-1, 2, -1)
    torch.testing.assert_close(heads(hidden, SURFACES), restated(heads, spread))
    found, expected = (
        torch.autograd.grad(logits.square().sum(), list(heads.parameters()))
        for logits in (heads(hidden, SURFACES), restated(heads, spread))
    )
    torch.testing.assert_close(found, expected)


def test_a_surface_starts_with_the_shared_head() -> None:
    heads = make(random=False, per_surface=True)
    torch.testing.assert_close(heads(rows(5, WIDTH), SURFACES), rows(5, WIDTH) @ heads.shared.weight.T)


def test_an_absent_surface_gets_nothing() -> None:
    heads = make(per_surface=True, conditional={"conversion": "click"})
    heads(rows(5, WIDTH), SURFACES).square().sum().backward()
    assert heads.own is not None
    for table in (heads.own, heads.surface_bias):
        assert table.weight.grad is not None and not table.weight.grad[1].any()
        assert table.weight.grad[[0, 2]].ne(0).all()


def test_no_rows() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert make(per_surface=True, conditional={"conversion": "click"})(rows(0, WIDTH), none).shape == (0, 2)


def test_logits_keep_their_precision_under_autocast() -> None:
    heads = make().float()
    hidden = rows(5, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        found = heads(hidden.bfloat16(), SURFACES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, heads(hidden.bfloat16().float(), SURFACES))


# Conditional tasks


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def sigmoid(z: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-z))


def test_a_conditional_task_gets_the_logit_of_the_product() -> None:
    heads, plain = (make(conditional=given) for given in ({"conversion": "click"}, {}))
    click, given_click = plain(rows(5, WIDTH), SURFACES).unbind(1)
    found = heads(rows(5, WIDTH), SURFACES)
    assert torch.equal(found[:, 0], click)
    torch.testing.assert_close(sigmoid(found[:, 1]), sigmoid(click) * sigmoid(given_click))
    torch.testing.assert_close(heads.head_logits(rows(5, WIDTH), SURFACES)[:, 1], given_click)


@pytest.mark.parametrize(
    "conditional", [{"b": "a", "c": "b"}, {"c": "b", "b": "a"}], ids=["in order", "backwards"]
)
def test_a_chain_multiplies_all_the_way(conditional: dict[str, str]) -> None:
    tasks = ("c", "a", "b")
    heads, plain = make(tasks, conditional=conditional), make(tasks)
    c, a, b = (sigmoid(z) for z in plain(rows(5, WIDTH), SURFACES).unbind(1))
    expected = torch.stack([a * b * c, a, a * b], dim=1)
    torch.testing.assert_close(sigmoid(heads(rows(5, WIDTH), SURFACES)), expected)


def test_both_heads_learn_from_the_product() -> None:
    heads = make(conditional={"conversion": "click"})
    heads(rows(5, WIDTH), SURFACES)[:, 1].sum().backward()
    assert heads.shared.weight.grad is not None and heads.shared.weight.grad.ne(0).all()


def exact(a: float, b: float) -> tuple[float, float]:
    """logit(sigmoid(a) * sigmoid(b)) and its derivative in a, by 200 decimals."""
    getcontext().prec = 200
    p, q = (1 / (1 + (-Decimal(z)).exp()) for z in (a, b))
    product = p * q
    slope = product * (1 - p) / (product * (1 - product))
    return float((product / (1 - product)).ln()), float(slope)


EXTREMES = [-80.0, -20.0, -1.5, 0.0, 0.7, 20.0, 80.0]


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("a", EXTREMES)
@pytest.mark.parametrize("b", EXTREMES)
def test_product_at_extreme_logits(a: float, b: float, kind: torch.dtype, tolerance: float) -> None:
    first, second = (torch.tensor(z, dtype=kind, requires_grad=True) for z in (a, b))
    found = product_logit(first, second)
    found.backward()
    assert first.grad is not None and second.grad is not None
    exactly_a, exactly_b = (float(torch.tensor(z, dtype=kind)) for z in (a, b))
    value, slope = exact(exactly_a, exactly_b)
    assert found.item() == pytest.approx(value, rel=tolerance, abs=tolerance)
    assert first.grad.item() == pytest.approx(slope, rel=100 * tolerance, abs=1e-37)
    assert second.grad.item() == pytest.approx(exact(exactly_b, exactly_a)[1], rel=100 * tolerance, abs=1e-37)


def test_product_gradient() -> None:
    a, b = rows(7).requires_grad_(), rows(14)[7:].clone().requires_grad_()
    assert torch.autograd.gradcheck(product_logit, (a, b))


# Base rates


def rates(**of_task: list[float]) -> dict[str, Tensor]:
    return {task: torch.tensor(values, dtype=torch.float64) for task, values in of_task.items()}


def test_every_surface_starts_at_its_rate_and_an_unknown_one_at_the_mean() -> None:
    heads, nan = make(), math.nan
    heads.set_base_rates(rates(click=[0.2, nan, 0.6], conversion=[nan, nan, 0.1]))
    click, conversion = heads.surface_bias.weight.T.tolist()
    assert click == pytest.approx([logit(0.2), logit(0.4), logit(0.6)])
    assert conversion == pytest.approx([logit(0.1)] * 3)


def test_rates_of_nothing_and_of_all_stay_finite() -> None:
    heads = make()
    heads.set_base_rates(rates(click=[0.0, 1.0, 0.5], conversion=[math.nan] * 3))
    click, conversion = heads.surface_bias.weight.T.tolist()
    assert click == pytest.approx([logit(1e-4), -logit(1e-4), 0.0])
    assert conversion == [0.0, 0.0, 0.0]


def test_a_conditional_task_starts_at_its_share_of_the_other_one() -> None:
    heads, nan = make(conditional={"conversion": "click"}), math.nan
    heads.set_base_rates(rates(click=[0.5, nan, 0.4], conversion=[0.1, 0.2, 0.2]))
    assert heads.surface_bias.weight[:, 1].tolist() == pytest.approx([logit(0.2), logit(0.35), logit(0.5)])
    with torch.no_grad():
        heads.shared.weight.zero_()
    started = sigmoid(heads(rows(2, WIDTH), torch.tensor([0, 2])))
    torch.testing.assert_close(started, torch.tensor([[0.5, 0.1], [0.4, 0.2]], dtype=torch.float64))


def test_a_surface_without_the_condition_stays_finite() -> None:
    heads = make(conditional={"conversion": "click"})
    heads.set_base_rates(rates(click=[0.0, 0.5, 0.5], conversion=[0.0, 0.0, 0.5]))
    found = heads.surface_bias.weight[:, 1].tolist()
    assert found == pytest.approx([logit((1e-4 + 1 - 1e-4) / 2), logit(1e-4), -logit(1e-4)])


# Refusals


@pytest.mark.parametrize(
    ("conditional", "message"),
    [
        (
            {"conversin": "click"},
            r"options\.conditional: got 'conversin', .*: click, conversion\. Did you mean 'conversion'",
        ),
        (
            {"conversion": "clik"},
            r"options\.conditional\.conversion: got 'clik', .* Did you mean 'click'",
        ),
        ({"click": "click"}, r"options\.conditional: got click given click, allowed: no task that"),
        (
            {"click": "conversion", "conversion": "click"},
            r"options\.conditional: got click given conversion given click",
        ),
    ],
)
def test_conditions_that_cannot_be_are_named(conditional: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(conditional=conditional)


def test_a_condition_that_the_model_does_not_predict_is_named() -> None:
    with pytest.raises(UserError, match="got 'click', allowed: the model's tasks: conversion"):
        parents_first({"conversion": "click"}, ("conversion",))
