"""Blocks against plain restatements of their equations, in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

from kernels.segments import Segments
from students.blocks import MLP, ActivationUnit, CrossLayer, Dice, DotInteraction, PReLU, SecondOrder


def randn(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_mlp_is_linear_layers_under_activations() -> None:
    mlp: Any = MLP(3, [4, 2]).double()
    x = randn(5, 3)
    first, second = mlp[0], mlp[2]
    hidden = (x @ first.weight.T + first.bias).clamp_min(0)
    torch.testing.assert_close(mlp(x), (hidden @ second.weight.T + second.bias).clamp_min(0))


def test_prelu_equals_torch() -> None:
    x, activation = randn(6, 4), PReLU(4).double()
    with torch.no_grad():
        activation.slope.copy_(torch.tensor([0.25, -0.5, 0.0, 1.5]))
    torch.testing.assert_close(activation(x), torch.nn.functional.prelu(x, activation.slope))
    slope = activation.slope.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a: functional_call(activation, {"slope": a}, (x,)), (x, slope))


def test_dice_by_hand() -> None:
    dice, x = Dice(2).double(), randn(7, 2)
    with torch.no_grad():
        dice.slope.copy_(torch.tensor([0.25, -0.5]))
    plain = x.detach().numpy()
    standard = (plain - plain.mean(0)) / np.sqrt(plain.var(0) + 1e-8)
    p = 1 / (1 + np.exp(-standard))
    expected = p * plain + (1 - p) * np.array([0.25, -0.5]) * plain
    np.testing.assert_allclose(dice(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("rows", [0, 1])
def test_dice_without_a_spread_takes_the_running_statistics(rows: int) -> None:
    dice, x = Dice(2), torch.ones(rows, 2)
    expected = torch.full((rows, 2), 1 / (1 + np.exp(-1.0)), dtype=torch.float32)
    torch.testing.assert_close(dice(x), expected)
    assert dice.norm.running_mean is not None and dice.norm.running_mean.tolist() == [0, 0]


def test_dot_interaction_is_every_pair_once() -> None:
    fields, block = randn(3, 4, 2), DotInteraction(4)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    expected = torch.stack([(fields[:, i] * fields[:, j]).sum(1) for i, j in pairs], dim=1)
    assert block.width == 6
    torch.testing.assert_close(block(fields), expected)
    assert torch.autograd.gradcheck(block, fields)


def test_dot_interaction_of_one_field_is_empty() -> None:
    assert DotInteraction(1)(randn(3, 1, 2)).shape == (3, 0)


def test_second_order_is_the_sum_of_all_pairs() -> None:
    fields = randn(3, 4, 2)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    expected = sum((fields[:, i] * fields[:, j]).sum(1) for i, j in pairs)
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(SecondOrder.apply(fields), expected.unsqueeze(1))
    assert torch.autograd.gradcheck(SecondOrder.apply, fields)


@pytest.mark.parametrize("rank", [0, 2])
def test_cross_layer(rank: int) -> None:
    layer: Any = CrossLayer(3, rank).double()
    first, x = randn(4, 3), randn(4, 3) + 1
    matrix = layer.up.weight @ layer.down.weight if rank else layer.up.weight
    torch.testing.assert_close(layer(first, x), first * (x @ matrix.T + layer.up.bias) + x)
    assert torch.autograd.gradcheck(layer, (first, x))


@pytest.mark.parametrize("activation", ["prelu", "dice"])
@pytest.mark.parametrize("hidden", [[5], [5, 4]])
def test_activation_unit_equals_the_unfolded_mlp(activation: str, hidden: list[int]) -> None:
    unit: Any = ActivationUnit(4, hidden, activation).double()
    with torch.no_grad():
        unit.activation.slope.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    lengths = [3, 0, 1, 2]
    segments = Segments.of(torch.tensor([0, *lengths]).cumsum(0), sum(lengths))
    events, target = randn(6, 4), randn(4, 4)
    t = target.repeat_interleave(torch.tensor(lengths), dim=0)
    plain = torch.nn.Sequential(unit.first, *unit.between, unit.activation, unit.last)
    expected = plain(torch.cat([events, t, events - t, events * t], dim=1)).squeeze(1)
    inputs = [events, target, *unit.parameters()]
    torch.testing.assert_close(unit(events, target, segments), expected)
    ours = torch.autograd.grad(unit(events, target, segments).square().sum(), inputs)
    theirs = torch.autograd.grad(expected.square().sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
