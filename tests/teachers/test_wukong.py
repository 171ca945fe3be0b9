"""The Wukong layer against its equations in float64."""

from typing import Any

import pytest
import torch

from teachers.wukong import WukongLayer

TOKENS, DIM, FM, LINEAR, RANK = 5, 4, 3, 2, 2


def build(attentive: bool) -> WukongLayer:
    """A layer whose every parameter counts: what starts at 0 is drawn like the rest."""
    torch.manual_seed(0)
    layer = WukongLayer(TOKENS, DIM, FM, LINEAR, RANK, attentive)
    if layer.of_example is not None:
        for parameter in layer.of_example.mlp[-1].parameters():
            torch.nn.init.normal_(parameter)
    return layer


def reached(layer: WukongLayer) -> set[str]:
    """Names of the parameters that got a gradient."""
    return {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("attentive", [False, True])
def test_layer_follows_the_equations(attentive):
    layer: Any = build(attentive).double()
    x = torch.randn(6, TOKENS, DIM, dtype=torch.float64)
    for sample, found in zip(x, layer(x), strict=True):
        low_rank = layer.low_rank
        if attentive:
            tokens = layer.of_example.compress @ sample
            first, _, last = layer.of_example.mlp
            hidden = torch.relu(first.weight @ tokens.reshape(-1) + first.bias)
            low_rank = low_rank + (last.weight @ hidden + last.bias).reshape(TOKENS, RANK)
        pairs = sample @ (sample.T @ low_rank)
        fmb = layer.mlp(layer.norm_pairs(pairs.reshape(1, -1))).reshape(FM, DIM)
        lcb, residual = layer.compress[:LINEAR] @ sample, layer.compress[LINEAR:] @ sample
        torch.testing.assert_close(found, layer.norm(torch.cat([fmb, lcb]) + residual))


def test_the_norm_of_the_pairs_keeps_its_names_and_its_eps():
    layer: Any = build(attentive=False).double()
    assert {"norm_pairs.weight", "norm_pairs.bias"} <= set(layer.state_dict())
    torch.nn.init.normal_(layer.norm_pairs.weight)
    torch.nn.init.normal_(layer.norm_pairs.bias)
    layer.norm_pairs.eps = 0.5
    x = torch.randn(6, TOKENS, DIM, dtype=torch.float64)
    pairs = torch.stack([sample @ sample.T @ layer.low_rank for sample in x])
    together = layer.compress @ x
    fmb = layer.mlp(layer.norm_pairs(pairs.flatten(1))).view(6, FM, DIM)
    expected = torch.cat([fmb, together[:, :LINEAR]], dim=1) + together[:, LINEAR:]
    torch.testing.assert_close(layer(x), layer.norm(expected))


@pytest.mark.parametrize("attentive", [False, True])
def test_every_parameter_gets_a_gradient(attentive):
    layer = build(attentive)
    (layer(torch.randn(6, TOKENS, DIM)) * torch.randn(6, FM + LINEAR, DIM)).sum().backward()
    assert reached(layer) == {name for name, _ in layer.named_parameters()}


def test_without_norms_small_tokens_stay_small():
    torch.manual_seed(0)
    layer: Any = WukongLayer(TOKENS, DIM, FM, LINEAR, RANK, norm=False).double()
    x = 1e-3 * torch.randn(6, TOKENS, DIM, dtype=torch.float64)
    first, _, last = layer.mlp
    for sample, found in zip(x, layer(x), strict=True):
        pairs = (sample @ sample.T @ layer.low_rank).flatten()
        fmb = (last.weight @ torch.relu(first.weight @ pairs + first.bias) + last.bias).view(FM, DIM)
        together = layer.compress @ sample
        expected = torch.cat([fmb, together[:LINEAR]]) + together[LINEAR:]
        torch.testing.assert_close(found, expected)
        # What is left of the factorization machine is its biases: the products are a millionth.
        no_pairs = last.weight @ torch.relu(first.bias) + last.bias
        torch.testing.assert_close(fmb.flatten(), no_pairs, atol=1e-5, rtol=0)


def test_an_attentive_layer_starts_as_the_plain_one():
    torch.manual_seed(0)
    attentive = WukongLayer(TOKENS, DIM, FM, LINEAR, RANK, attentive=True)
    plain = WukongLayer(TOKENS, DIM, FM, LINEAR, RANK)
    shared = {k: v for k, v in attentive.state_dict().items() if not k.startswith("of_example")}
    plain.load_state_dict(shared)
    x = torch.randn(6, TOKENS, DIM)
    assert torch.equal(attentive(x), plain(x))


def test_at_the_start_only_the_last_part_of_an_examples_own_projection_gets_a_gradient():
    torch.manual_seed(0)
    layer = WukongLayer(TOKENS, DIM, FM, LINEAR, RANK, attentive=True)
    (layer(torch.randn(6, TOKENS, DIM)) * torch.randn(6, FM + LINEAR, DIM)).sum().backward()
    missed = {name for name, _ in layer.named_parameters()} - reached(layer)
    assert missed == {"of_example.compress", "of_example.mlp.0.weight", "of_example.mlp.0.bias"}


def test_an_examples_own_projection_is_its_own():
    layer = build(attentive=True)
    x = torch.randn(6, TOKENS, DIM)
    changed = x.clone()
    changed[2] += 1
    before, after = layer(x), layer(changed)
    rest = [0, 1, 3, 4, 5]
    torch.testing.assert_close(after[rest], before[rest])
    assert (after[2] - before[2]).abs().max() > 1e-3


def test_the_order_of_the_examples_does_not_matter():
    layer, order = build(attentive=True), torch.tensor([3, 0, 5, 1, 4, 2])
    x = torch.randn(6, TOKENS, DIM)
    torch.testing.assert_close(layer(x[order]), layer(x)[order])


@pytest.mark.parametrize("attentive", [False, True])
def test_autocast_stays_near_float32(attentive):
    layer, x = build(attentive), torch.randn(64, TOKENS, DIM)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    found.float().square().sum().backward()
    # Outputs are normed to 1; bfloat16 keeps 8 bits.
    assert (found.float() - exact).abs().mean() < 0.02
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_an_empty_batch_gives_an_empty_output():
    assert build(attentive=True)(torch.empty(0, TOKENS, DIM)).shape == (0, FM + LINEAR, DIM)
