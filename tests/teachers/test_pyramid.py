"""The pyramid's layer against a plain per-row restatement in float64, and what must not matter to it."""

import cmath

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

import kernels.norm_ffn.flops  # noqa: F401  registers its formula
from teachers.pyramid import PyramidLayer, newest, parts_of

DIM, HEADS = 8, 2
HISTORIES = [[7, 0, 1, 3, 2, 12], [1, 1], [0, 0], [], [5, 5]]


def offsets_of(lengths):
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()])


def draw(tokens, dtype=torch.float64):
    return torch.randn(tokens, DIM, dtype=dtype)


def layer_of(keep, modules, rotary=False):
    """A layer whose gates are not all alike, as after training."""
    torch.manual_seed(0)
    layer = PyramidLayer(DIM, HEADS, keep, modules, rotary).double()
    torch.nn.init.normal_(layer.gate.weight)
    return layer


def turned(x, place):
    """One head's row [n, E], pairs of neighbours turned by their places."""
    pairs = [
        [
            complex(*pair) * cmath.exp(-1j * at * 10_000 ** (-2 * p / x.shape[1]))
            for p, pair in enumerate(token)
        ]
        for token, at in zip(x.unflatten(1, (-1, 2)).tolist(), place, strict=True)
    ]
    return torch.tensor(
        [[part for z in token for part in (z.real, z.imag)] for token in pairs], dtype=x.dtype
    )


def restated_row(layer, row, keep, modules, rotary):
    """One row [L, d], module by module and head by head."""
    normed, length = layer.norm_attention(row), len(row)
    kept, width = min(keep, length), DIM // HEADS
    queries, ages = normed[length - kept :], list(range(length - 1, -1, -1))
    gates = modules * layer.gate(queries).view(kept, modules, HEADS).softmax(1)
    combined, end = torch.zeros(kept, modules, HEADS, width, dtype=row.dtype), length
    for p in range(modules):
        size = length // modules + (p < length % modules)
        start, stop, end = end - size, end, end - size
        q = layer.query(queries)[:, p * DIM : (p + 1) * DIM]
        k, v = layer.key_value[p](normed[start:stop]).split(DIM, dim=1)
        for h in range(HEADS):
            part = slice(h * width, (h + 1) * width)
            q_h, k_h = q[:, part], k[:, part]
            if rotary and kept:
                q_h, k_h = turned(q_h, ages[length - kept :]), turned(k_h, ages[start:stop])
            if size:
                scores = q_h @ k_h.view(-1, width).T / width**0.5
                combined[:, p, h] = gates[:, p, h, None] * (scores.softmax(1) @ v[:, part])
    tokens = row[length - kept :] + layer.out(combined.view(kept, modules * DIM))
    return tokens + layer.mlp(layer.norm_mlp(tokens))


@pytest.mark.parametrize("lengths", HISTORIES)
@pytest.mark.parametrize(
    ("keep", "modules", "rotary"), [(3, 2, False), (2, 3, True), (1, 1, True), (20, 4, False)]
)
def test_layer_equals_its_restatement(lengths, keep, modules, rotary):
    layer, tokens = layer_of(keep, modules, rotary), draw(sum(lengths))
    found, offsets = layer(tokens, offsets_of(lengths))
    assert offsets.tolist() == offsets_of([min(keep, length) for length in lengths]).tolist()
    with torch.no_grad():
        rows = [restated_row(layer, row, keep, modules, rotary) for row in tokens.split(lengths) if len(row)]
    torch.testing.assert_close(found, torch.cat([torch.empty(0, DIM, dtype=torch.float64), *rows]))


def test_gradients_equal_those_of_the_restatement():
    lengths = [7, 0, 1, 3]
    layer, tokens = layer_of(keep=3, modules=2), draw(11).requires_grad_()
    inputs = [tokens, *layer.parameters()]
    weights = torch.randn(7, DIM, dtype=torch.float64)
    found = torch.autograd.grad((layer(tokens, offsets_of(lengths))[0] * weights).sum(), inputs)
    rows = [restated_row(layer, row, 3, 2, False) for row in tokens.split(lengths) if len(row)]
    expected = torch.autograd.grad((torch.cat(rows) * weights).sum(), inputs)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_gradcheck_with_rotary_positions():
    layer, tokens, offsets = (
        layer_of(keep=2, modules=2, rotary=True),
        draw(6).requires_grad_(),
        offsets_of([1, 0, 5]),
    )
    assert torch.autograd.gradcheck(lambda x: layer(x, offsets)[0], (tokens,))


def test_one_module_that_keeps_all_is_ordinary_attention():
    lengths = [4, 1, 6]
    layer, tokens = layer_of(keep=6, modules=1), draw(11)
    expected = []
    for row in tokens.split(lengths):
        normed = layer.norm_attention(row)
        projected = torch.cat([layer.query(normed), layer.key_value[0](normed)], dim=1)
        q, k, v = projected.view(len(row), 3, HEADS, -1).permute(1, 2, 0, 3)
        row = row + layer.out(scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
        expected.append(row + layer.mlp(layer.norm_mlp(row)))
    found, offsets = layer(tokens, offsets_of(lengths))
    torch.testing.assert_close(found, torch.cat(expected))
    assert torch.equal(offsets, offsets_of(lengths))


def test_feed_forward_is_one_operator_on_the_kept_tokens():
    with FlopCounterMode(display=False) as counter:
        layer_of(keep=2, modules=1)(draw(8), offsets_of([5, 3]))
    assert counter.get_flop_counts()["Global"][torch.ops.gem_distill.norm_ffn] == 2 * 4 * 2 * DIM * 2 * DIM


def test_modules_count_alike_at_the_start():
    torch.manual_seed(0)
    layer, tokens = PyramidLayer(DIM, HEADS, keep=2, modules=3).double(), draw(9)
    seen = []
    layer.out.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    layer(tokens, offsets_of([9]))
    torch.nn.init.zeros_(layer.query.weight)
    torch.nn.init.zeros_(layer.query.bias)
    layer(tokens, offsets_of([9]))
    normed = layer.norm_attention(tokens)
    parts = [normed[6:], normed[3:6], normed[:3]]
    means = [layer.key_value[p](part)[:, DIM:].mean(0) for p, part in enumerate(parts)]
    torch.testing.assert_close(seen[1], torch.cat(means).expand(2, -1))


def test_an_empty_part_contributes_nothing():
    layer, tokens = layer_of(keep=4, modules=3), draw(2)
    before = layer(tokens, offsets_of([2]))[0]
    for parameter in layer.key_value[2].parameters():
        torch.nn.init.constant_(parameter, 100.0)
    assert torch.equal(layer(tokens, offsets_of([2]))[0], before)


def test_permuting_examples_permutes_what_comes_out():
    lengths, order = [5, 0, 1, 8], [3, 1, 0, 2]
    layer, tokens = layer_of(keep=3, modules=2, rotary=True), draw(14)
    rows = tokens.split(lengths)
    found, offsets = layer(tokens, offsets_of(lengths))
    moved, _ = layer(torch.cat([rows[b] for b in order]), offsets_of([lengths[b] for b in order]))
    kept = found.split(offsets.diff().tolist())
    torch.testing.assert_close(moved, torch.cat([kept[b] for b in order]))


def test_kept_tokens_read_all_that_is_below():
    layer, tokens = layer_of(keep=2, modules=2), draw(40).requires_grad_()
    layer(tokens, offsets_of([40]))[0].sum().backward()
    assert (tokens.grad.abs().sum(1) > 0).all()


def test_scores_grow_with_the_history_and_not_with_its_square(monkeypatch):
    scores = []

    def count(q, k, v, q_offsets, k_offsets):
        scores.append(int((q_offsets.diff() * k_offsets.diff()).sum()))
        return q

    monkeypatch.setattr("teachers.pyramid.jagged_attention", count)
    layer = PyramidLayer(DIM, HEADS, keep=16, modules=4)
    for length in (1_000, 4_000):
        layer(draw(2 * length + 3, torch.float32), offsets_of([length, 3, length]))
    # The short row keeps 3 tokens, which meet 3.
    assert scores == [16 * 2_000 + 9, 16 * 8_000 + 9]


def test_newest_tokens_of_rows():
    kept, offsets = newest(offsets_of([3, 0, 1, 5]), 2)
    assert kept.tolist() == [1, 2, 3, 7, 8] and offsets.tolist() == [0, 2, 2, 3, 5]


def test_parts_of_rows_from_newest_to_oldest():
    order, offsets = parts_of(offsets_of([6, 0, 1]), 4)
    assert order.tolist() == [4, 5, 6, 2, 3, 1, 0]
    assert offsets.diff().tolist() == [2, 0, 1, 2, 0, 0, 1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads: got 3, allowed: a divisor of the width, 8"),
        ({"keep": 0}, "keep: got 0, allowed: at least 1"),
        ({"modules": 0}, "modules: got 0, allowed: at least 1"),
        ({"heads": 8, "rotary": True}, "rotary: got True with 1 floats per head"),
    ],
)
def test_bad_sizes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        PyramidLayer(**({"dim": DIM, "heads": HEADS, "keep": 2, "modules": 2} | changes))
