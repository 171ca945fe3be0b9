"""InterFormer's parts against plain restatements, example by example in float64, and the layer of both towers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from teachers.interformer import (
    FeatureSummary,
    Gate,
    InterFormerLayer,
    PersonalizedFFN,
    SequenceSummary,
    append_tokens,
)
from teachers.pyramid import PyramidLayer
from teachers.sequence import SequenceLayer, last_events
from teachers.wukong import WukongLayer

DIM, HEADS, TOKENS, SUMMARY = 8, 2, 5, 3
# An empty history, one event, all empty, none.
HISTORIES = [[3, 0, 1, 5], [1, 1], [0, 0, 0], []]


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()])


def rows_of(tokens: Tensor, offsets: Tensor) -> list[Tensor]:
    return [tokens[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]


def draw(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(size, dtype=dtype, generator=generator)


def missed(module: nn.Module) -> set[str]:
    """Names of the parameters that got no gradient."""
    return {name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Mean(nn.Module):
    """A sequence layer in which a token sees its own row, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows_of(self.linear(tokens), offsets)
        return torch.cat([row + row.mean(0) for row in rows]) if rows else tokens, offsets


class Newest(nn.Module):
    """A layer that keeps the newest tokens of a row, as a pyramid's do."""

    def __init__(self, keep: int):
        super().__init__()
        self.keep = keep

    def forward(self, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        rows = [row[-self.keep :] for row in rows_of(tokens, offsets)]
        return torch.cat(rows), offsets_of([len(row) for row in rows])


def build_layer(cls_tokens: int = 2, first: bool = True, sequence: nn.Module | None = None) -> Any:
    summary = SequenceSummary(DIM, HEADS, cls_tokens, seeds=2, recent=2, target=True, gates=True)
    return InterFormerLayer(
        FeatureSummary(TOKENS, SUMMARY, DIM, gate=True),
        summary,
        WukongLayer(TOKENS + summary.tokens, DIM, 3, 2, 2),
        Mean() if sequence is None else sequence,
        first,
    )


def inputs_of(lengths: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x, tokens, offsets and target of a batch."""
    batch = len(lengths)
    tokens = draw(sum(lengths), DIM, dtype=dtype)
    return (
        draw(batch, TOKENS, DIM, dtype=dtype),
        tokens,
        offsets_of(lengths),
        draw(batch, DIM, dtype=dtype),
    )


def test_gate_is_a_mask_made_of_what_it_masks() -> None:
    gate, x = Gate(DIM).double(), draw(4, 3, DIM)
    first, _, last = gate.mlp
    hidden = (x @ first.weight.T + first.bias).clamp(min=0)  # type: ignore[operator]
    mask = 1 / (1 + (-(hidden @ last.weight.T + last.bias)).exp())  # type: ignore[operator]
    torch.testing.assert_close(gate(x), x * mask)


def test_gate_keeps_zeros_and_signs() -> None:
    gate, x = Gate(DIM), draw(6, DIM, dtype=torch.float32)
    assert torch.equal(gate(torch.zeros(2, DIM)), torch.zeros(2, DIM))
    assert torch.equal(gate(x).sign(), x.sign())


@pytest.mark.parametrize("gate", [False, True])
def test_feature_summary_is_an_mlp_along_the_tokens(gate: bool) -> None:
    summary: Any = FeatureSummary(TOKENS, SUMMARY, DIM, gate).double()
    x = draw(4, TOKENS, DIM)
    first, _, last = summary.mlp
    for sample, found in zip(x, summary(x), strict=True):
        hidden = torch.relu(first.weight @ sample + first.bias.unsqueeze(1))
        expected = last.weight @ hidden + last.bias.unsqueeze(1)
        torch.testing.assert_close(found, summary.gate(expected) if gate else expected)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("lengths", HISTORIES, ids=str)
def test_appended_tokens_lie_behind_the_newest_event_of_their_row(lengths: list[int], count: int) -> None:
    tokens, offsets, extra = draw(sum(lengths), DIM), offsets_of(lengths), draw(len(lengths), count, DIM)
    found, found_offsets = append_tokens(tokens, offsets, extra)
    assert torch.equal(found_offsets, offsets_of([length + count for length in lengths]))
    rows = [torch.cat(pair) for pair in zip(rows_of(tokens, offsets), extra, strict=True)]
    assert torch.equal(found, torch.cat([tokens[:0], *rows]))


def test_appended_tokens_and_events_get_their_own_gradients() -> None:
    tokens, extra = draw(9, DIM).requires_grad_(), draw(4, 2, DIM).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t, e: append_tokens(t, offsets_of([3, 0, 1, 5]), e)[0], (tokens, extra)
    )


def test_appended_tokens_may_be_narrower_than_the_events() -> None:
    tokens, extra = draw(2, DIM, dtype=torch.float32), draw(2, 1, DIM).bfloat16().requires_grad_()
    found, _ = append_tokens(tokens, offsets_of([2, 0]), extra)
    found.sum().backward()
    assert found.dtype == torch.float32 and extra.grad is not None and extra.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("lengths", HISTORIES, ids=str)
def test_personalized_ffn_is_a_matrix_of_each_examples_own(lengths: list[int]) -> None:
    ffn = PersonalizedFFN(SUMMARY, DIM).double()
    summary, tokens, offsets = draw(len(lengths), SUMMARY, DIM), draw(sum(lengths), DIM), offsets_of(lengths)
    expected = []
    for own, row in zip(summary, rows_of(tokens, offsets), strict=True):
        # Tokens are columns in the paper: X_sum is [d, n_sum], W [n_sum, d], S [d, T].
        matrix = own.T @ ffn.weight.weight
        assert matrix.shape == (DIM, DIM)
        expected.append(row + (matrix @ ffn.norm(row).T).T)
    torch.testing.assert_close(ffn(summary, tokens, offsets), torch.cat([tokens[:0], *expected]))


def test_personalized_ffn_starts_near_the_identity() -> None:
    ffn, lengths = PersonalizedFFN(4, 32), [40] * 25
    tokens = draw(1000, 32, dtype=torch.float32)
    change = ffn(draw(25, 4, 32, dtype=torch.float32), tokens, offsets_of(lengths)) - tokens
    assert 0.05 < change.square().mean().sqrt() < 0.2


def test_gradients_of_the_personalized_ffn_are_right() -> None:
    ffn, offsets = PersonalizedFFN(SUMMARY, DIM).double(), offsets_of([3, 0, 1])
    inputs = draw(3, SUMMARY, DIM).requires_grad_(), draw(4, DIM).requires_grad_()
    assert torch.autograd.gradcheck(lambda summary, tokens: ffn(summary, tokens, offsets), inputs)
    ffn(*inputs, offsets).square().sum().backward()
    assert not missed(ffn)


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize("cls_tokens", [0, 3])
def test_sequence_summary_counts_its_tokens(target: bool, cls_tokens: int) -> None:
    summary = SequenceSummary(DIM, HEADS, cls_tokens, seeds=2, recent=1, target=target, gates=True)
    found = summary(draw(9, DIM).float(), offsets_of([3, 0, 1, 5]), draw(4, DIM).float())
    assert summary.tokens == target + 2 + cls_tokens + 1
    assert found.shape == (4, summary.tokens, DIM)


def test_sequence_summary_gives_cls_tokens_then_the_newest_events() -> None:
    lengths = [3, 0, 1, 5]
    summary = SequenceSummary(DIM, HEADS, cls_tokens=2, seeds=1, recent=2, target=True, gates=False).double()
    tokens, cls = draw(9, DIM), draw(4, 2, DIM)
    found = summary(*append_tokens(tokens, offsets_of(lengths), cls), draw(4, DIM))[:, 2:]
    norm = summary.summaries.norm
    torch.testing.assert_close(found[:, :2], norm(cls).flip(1))
    torch.testing.assert_close(found[:, 2:], last_events(norm(tokens), offsets_of(lengths), 2))


def test_sequence_summary_gates_all_of_its_tokens() -> None:
    summary: Any = SequenceSummary(DIM, HEADS, cls_tokens=1, seeds=1, recent=1, target=True, gates=True)
    inputs = draw(9, DIM).float(), offsets_of([3, 0, 1, 5]), draw(4, DIM).float()
    assert torch.equal(summary(*inputs), summary.gate(summary.summaries(*inputs)))


def test_events_that_a_history_lacks_are_zeros_in_its_summary() -> None:
    summary = SequenceSummary(DIM, HEADS, cls_tokens=0, seeds=1, recent=2, target=False, gates=True)
    recent = summary(draw(4, DIM).float(), offsets_of([3, 0, 1]), draw(3, DIM).float())[:, 1:]
    assert torch.equal(recent[1], torch.zeros(2, DIM)) and torch.equal(recent[2, 1], torch.zeros(DIM))
    assert recent[0].ne(0).all() and recent[2, 0].ne(0).all()


@pytest.mark.parametrize("lengths", HISTORIES[:3], ids=str)
@pytest.mark.parametrize("first", [False, True])
def test_both_towers_move_on_from_the_same_summaries(lengths: list[int], first: bool) -> None:
    layer = build_layer(cls_tokens=2 if first else 0, first=first).double()
    x, tokens, offsets, target = inputs_of(lengths)
    found, found_tokens, found_offsets = layer(x, tokens, offsets, target)
    # The sequence goes first here, the features second: neither may see what became of the other.
    x_sum = layer.feature_summary(x)
    if first:
        tokens, offsets = append_tokens(tokens, offsets, x_sum[:, :2])
    moved, _ = layer.sequence(layer.personal(x_sum, tokens, offsets), offsets)
    crossed = layer.interaction(torch.cat([x, layer.sequence_summary(tokens, offsets, target)], dim=1))
    torch.testing.assert_close(found, crossed)
    torch.testing.assert_close(found_tokens, moved)
    assert torch.equal(found_offsets, offsets)


def test_each_summary_is_made_once() -> None:
    layer, calls = build_layer(), []
    for name in ("feature_summary", "sequence_summary", "interaction", "sequence"):
        getattr(layer, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    layer(*inputs_of([3, 0, 1], torch.float32))
    assert sorted(calls) == ["feature_summary", "interaction", "sequence", "sequence_summary"]
    assert set(calls[:2]) == {"feature_summary", "sequence_summary"}


def test_only_the_first_layer_appends_cls_tokens() -> None:
    summary = SequenceSummary(DIM, HEADS, cls_tokens=2, seeds=1, recent=1, target=True, gates=False)
    second = InterFormerLayer(
        FeatureSummary(5, SUMMARY, DIM, gate=False),
        summary,
        WukongLayer(5 + summary.tokens, DIM, 3, 2, 2),
        Mean(),
    )
    x, tokens, offsets, target = inputs_of([3, 0, 1], torch.float32)
    after_one = build_layer()(x, tokens, offsets, target)
    after_two = second(*after_one, target)
    assert torch.equal(after_one[2], offsets_of([5, 2, 3])) and torch.equal(after_two[2], after_one[2])


def test_cls_tokens_survive_a_layer_that_keeps_the_newest() -> None:
    layer = build_layer(cls_tokens=2, sequence=Newest(3)).double()
    x, tokens, offsets, target = inputs_of([4, 0, 1])
    _, kept, kept_offsets = layer(x, tokens, offsets, target)
    assert torch.equal(kept_offsets, offsets_of([3, 2, 3]))
    x_sum = layer.feature_summary(x)
    rows = layer.personal(x_sum, *append_tokens(tokens, offsets, x_sum[:, :2]))
    ends = [[3, 4, 5], [6, 7], [8, 9, 10]]
    torch.testing.assert_close(kept, torch.cat([rows[places] for places in ends]))


@pytest.mark.parametrize("lengths", [[3, 0, 1, 5], [0, 0, 0]], ids=str)
def test_every_parameter_gets_a_gradient(lengths: list[int]) -> None:
    layer = build_layer(sequence=SequenceLayer(DIM, HEADS))
    x, tokens, _ = layer(*inputs_of(lengths, torch.float32))
    (x * draw(*x.shape, dtype=torch.float32)).sum().backward(retain_graph=True)
    (tokens * draw(*tokens.shape, dtype=torch.float32)).sum().backward()
    assert not missed(layer)


@pytest.mark.parametrize(
    "sequence", [Mean, lambda: SequenceLayer(DIM, HEADS), lambda: PyramidLayer(DIM, HEADS, keep=3, modules=2)]
)
def test_the_order_of_the_examples_does_not_matter(sequence: Callable[[], nn.Module]) -> None:
    layer, lengths, order = build_layer(sequence=sequence()).double(), [3, 0, 1, 5], [2, 3, 0, 1]
    x, tokens, offsets, target = inputs_of(lengths)
    crossed, moved, moved_offsets = layer(x, tokens, offsets, target)
    rows = rows_of(tokens, offsets)
    shuffled = torch.cat([rows[place] for place in order]), offsets_of([lengths[place] for place in order])
    found, found_tokens, found_offsets = layer(x[order], *shuffled, target[order])
    torch.testing.assert_close(found, crossed[order])
    expected = rows_of(moved, moved_offsets)
    for row, place in zip(rows_of(found_tokens, found_offsets), order, strict=True):
        torch.testing.assert_close(row, expected[place])


def test_autocast_stays_near_float32() -> None:
    layer, lengths = build_layer(), [3, 0, 1, 5] * 8
    inputs = inputs_of(lengths, torch.float32)
    exact, exact_tokens, _ = layer(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        crossed, tokens, _ = layer(*inputs)
    assert (crossed.float() - exact).abs().mean() < 0.03
    assert (tokens.float() - exact_tokens).abs().mean() < 0.03
    (crossed.float().square().sum() + tokens.float().square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_more_cls_tokens_than_the_features_summary_has_are_refused() -> None:
    with pytest.raises(ValueError, match="cls_tokens: got 4, allowed: at most .* 3"):
        build_layer(cls_tokens=4)
