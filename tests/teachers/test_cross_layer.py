"""Cross-layer attention against one example after another in float64, and Wukong without it."""

import pytest
import torch

from teachers.cross_layer import CrossLayerAttention
from teachers.wukong import WukongLayer

DIM, HEADS, BATCH, OWN, BELOW = 8, 2, 5, 3, 7


def build(open_gate: bool) -> CrossLayerAttention:
    torch.manual_seed(0)
    block = CrossLayerAttention(DIM, HEADS)
    if open_gate:
        torch.nn.init.normal_(block.gate)
    return block


def draw(dtype=torch.float32):
    return torch.randn(BATCH, OWN, DIM, dtype=dtype), torch.randn(BATCH, BELOW, DIM, dtype=dtype)


def reached(block: CrossLayerAttention) -> set[str]:
    """Names of the parameters that got a gradient."""
    return {name for name, p in block.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_it_is_gated_attention_to_all_that_lies_below():
    block = build(open_gate=True).double()
    x, below = draw(torch.float64)
    for own, lower, found in zip(x, below, block(x, below), strict=True):
        q = own @ block.query.weight.T + block.query.bias
        keys_values = lower @ block.key_value.weight.T + block.key_value.bias
        k, v = keys_values[:, :DIM], keys_values[:, DIM:]
        heads = []
        for h in range(HEADS):
            part = slice(h * DIM // HEADS, (h + 1) * DIM // HEADS)
            scores = q[:, part] @ k[:, part].T / (DIM // HEADS) ** 0.5
            heads.append(scores.softmax(1) @ v[:, part])
        attended = torch.cat(heads, 1) @ block.out.weight.T + block.out.bias
        torch.testing.assert_close(found, own + block.gate * attended)


def test_gradients_of_both_inputs_are_right():
    block = build(open_gate=True).double()
    inputs = tuple(tensor.requires_grad_() for tensor in draw(torch.float64))
    assert torch.autograd.gradcheck(block, inputs)


def test_a_gate_of_zero_changes_no_bit():
    x, below = draw()
    assert torch.equal(build(open_gate=False)(x, below), x)


def test_a_tower_with_gates_of_zero_is_plain_wukong():
    torch.manual_seed(0)
    layers = [WukongLayer(OWN, DIM, 2, 1, 2) for _ in range(3)]
    connections = [CrossLayerAttention(DIM, HEADS) for _ in layers]
    plain = connected = torch.randn(BATCH, OWN, DIM)
    outputs = [connected]
    for layer, connection in zip(layers, connections, strict=True):
        plain = layer(plain)
        connected = connection(layer(connected), torch.cat(outputs, dim=1))
        outputs.append(connected)
    assert torch.equal(connected, plain)


def test_every_parameter_gets_a_gradient_once_the_gate_is_open():
    block = build(open_gate=True)
    (block(*draw()) * torch.randn(BATCH, OWN, DIM)).sum().backward()
    assert reached(block) == {name for name, _ in block.named_parameters()}


def test_at_the_start_the_gate_alone_gets_a_gradient():
    block = build(open_gate=False)
    (block(*draw()) * torch.randn(BATCH, OWN, DIM)).sum().backward()
    assert reached(block) == {"gate"}


def test_the_order_of_the_tokens_below_does_not_matter():
    block, (x, below) = build(open_gate=True), draw()
    torch.testing.assert_close(block(x, below.flip(1)), block(x, below))


def test_examples_do_not_see_each_other():
    block, (x, below) = build(open_gate=True), draw()
    changed = below.clone()
    changed[2] += 1
    before, after = block(x, below), block(x, changed)
    rest = [0, 1, 3, 4]
    torch.testing.assert_close(after[rest], before[rest])
    assert (after[2] - before[2]).abs().max() > 1e-3


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(ValueError, match=f"heads: got {heads}, allowed: a divisor of the width, 8"):
        CrossLayerAttention(DIM, heads)
