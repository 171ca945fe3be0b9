"""The Wukong layer against its equations in float64."""

import torch

from teachers.wukong import WukongLayer


def test_layer_follows_the_equations():
    torch.manual_seed(0)
    tokens, dim, fm, linear, rank = 5, 4, 3, 2, 2
    layer = WukongLayer(tokens, dim, fm, linear, rank).double()
    x = torch.randn(6, tokens, dim, dtype=torch.float64)
    for sample, found in zip(x, layer(x), strict=True):
        pairs = sample @ (sample.T @ layer.low_rank)
        fmb = layer.mlp(layer.norm_pairs(pairs.reshape(1, -1))).reshape(fm, dim)
        lcb, residual = layer.compress[:linear] @ sample, layer.compress[linear:] @ sample
        torch.testing.assert_close(found, layer.norm(torch.cat([fmb, lcb]) + residual))


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    layer = WukongLayer(5, 4, 3, 2, 2)
    (layer(torch.randn(6, 5, 4)) * torch.randn(6, 5, 4)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
