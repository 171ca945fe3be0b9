"""The sequence tower against plain per-row restatements in float64, and what must not matter to it."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kernels.norm_ffn.flops  # noqa: F401  registers its formula
from distill.batch import Events
from teachers.sequence import (
    EventEncoder,
    SequenceLayer,
    Summaries,
    age_bucket,
    hours_apart,
    last_events,
    mean_events,
)

LENGTHS = [3, 0, 1, 5]
OFFSETS = torch.tensor([0, 3, 3, 4, 9])
NO_EVENTS = torch.zeros(3, dtype=torch.int64)
DIM, HEADS = 8, 2


def rows(tokens):
    return tokens.split(LENGTHS)


def gradients(module: nn.Module) -> list[torch.Tensor]:
    """Of all parameters, none of which is left out."""
    found = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert len(found) == len(list(module.parameters()))
    return found


def attend(q, k, v, seen=None):
    """Softmax attention of one row: q [n, d], k and v [m, d], heads side by side in d; seen bool [n, m]."""
    heads = []
    for h in range(HEADS):
        part = slice(h * DIM // HEADS, (h + 1) * DIM // HEADS)
        scores = q[:, part] @ k[:, part].T / (DIM // HEADS) ** 0.5
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        heads.append(scores.softmax(1) @ v[:, part])
    return torch.cat(heads, 1)


def restated_layer(layer, tokens, causal, window):
    expected = []
    for row in rows(tokens):
        if not len(row):
            continue
        q, k, v = layer.qkv(layer.norm_attention(row)).split(DIM, dim=1)
        apart = torch.arange(len(row))[:, None] - torch.arange(len(row))
        seen = (apart.abs() < (window or 100)) & (apart >= 0 if causal else True)
        row = row + layer.out(attend(q, k, v, seen))
        expected.append(row + layer.mlp(layer.norm_mlp(row)))
    return torch.cat(expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 1, 2, 9])
def test_layer_is_pre_norm_attention_and_feed_forward(causal, window):
    torch.manual_seed(0)
    layer = SequenceLayer(DIM, HEADS, causal, window).double()
    tokens = torch.randn(9, DIM, dtype=torch.float64, requires_grad=True)
    found, offsets = layer(tokens, OFFSETS)
    expected = restated_layer(layer, tokens, causal, window)
    torch.testing.assert_close(found, expected)
    assert torch.equal(offsets, OFFSETS)
    inputs, weights = [tokens, *layer.parameters()], torch.randn(9, DIM, dtype=torch.float64)
    both = (torch.autograd.grad((x * weights).sum(), inputs) for x in (found, expected))
    for mine, theirs in zip(*both, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_layer_gives_an_early_event_nothing_of_a_later_one():
    torch.manual_seed(0)
    layer, tokens = SequenceLayer(DIM, HEADS, rotary=True), torch.randn(9, DIM)
    changed = tokens.clone()
    changed[8] += 1
    assert torch.equal(layer(tokens, OFFSETS)[0][:8], layer(changed, OFFSETS)[0][:8])


def test_rotary_layer_knows_order_and_nothing_else_of_places():
    torch.manual_seed(0)
    layer = SequenceLayer(DIM, HEADS, causal=False, window=2, rotary=True).double()
    tokens = torch.randn(6, DIM, dtype=torch.float64)
    found = layer(tokens, torch.tensor([0, 6]))[0]
    # Within its window, an event does not notice that the row has lost its oldest or newest events.
    cut = layer(tokens[1:5], torch.tensor([0, 4]))[0]
    torch.testing.assert_close(cut[1:3], found[2:4])
    swapped = layer(tokens[[0, 1, 4, 3, 2, 5]], torch.tensor([0, 6]))[0]
    assert (swapped[3] - found[3]).abs().max() > 1e-3
    unordered = SequenceLayer(DIM, HEADS, causal=False, window=2).double()
    unordered.load_state_dict(layer.state_dict())
    swapped, plain = (unordered(x, torch.tensor([0, 6]))[0] for x in (tokens[[0, 1, 4, 3, 2, 5]], tokens))
    torch.testing.assert_close(swapped[3], plain[3])


@pytest.mark.parametrize("rotary", [False, True])
def test_permuting_examples_permutes_what_comes_out(rotary):
    torch.manual_seed(0)
    layer, tokens = SequenceLayer(DIM, HEADS, window=3, rotary=rotary).double(), torch.randn(9, DIM).double()
    found, moved = rows(layer(tokens, OFFSETS)[0]), [rows(tokens)[b] for b in (3, 1, 0, 2)]
    again = layer(torch.cat(moved), torch.tensor([0, 5, 5, 8, 9]))[0]
    torch.testing.assert_close(again, torch.cat([found[b] for b in (3, 1, 0, 2)]))


def test_feed_forward_is_one_operator_with_the_parameters_of_its_modules():
    layer = SequenceLayer(DIM, HEADS)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(9, DIM), OFFSETS)
    flops = counter.get_flop_counts()["Global"]
    # The projections to queries, keys and values and back are the only other products.
    assert flops[torch.ops.gem_distill.norm_ffn] == 2 * 9 * 2 * DIM * 2 * DIM
    assert flops[torch.ops.aten.addmm] == 2 * 9 * DIM * 4 * DIM
    names = {name for name in layer.state_dict() if "mlp" in name}
    linear = {f"mlp.{place}.{kind}" for place in (0, 2) for kind in ("weight", "bias")}
    assert names == {"norm_mlp.weight", "norm_mlp.bias", *linear}


@pytest.mark.parametrize("rotary", [False, True])
def test_layer_of_empty_histories(rotary):
    found, offsets = SequenceLayer(DIM, HEADS, rotary=rotary)(torch.empty(0, DIM), NO_EVENTS)
    assert found.shape == (0, DIM) and torch.equal(offsets, NO_EVENTS)


@pytest.mark.parametrize("rotary", [False, True])
def test_layer_under_autocast_is_close_and_trains(rotary):
    torch.manual_seed(0)
    layer, tokens = SequenceLayer(DIM, HEADS, window=2, rotary=rotary), torch.randn(9, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(tokens, OFFSETS)[0]
    found.float().sum().backward()
    torch.testing.assert_close(found.float(), layer(tokens, OFFSETS)[0], rtol=0.05, atol=0.05)
    assert all(gradient.isfinite().all() for gradient in gradients(layer))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads: got 3, allowed: a divisor of the width, 8"),
        ({"heads": 0}, "heads: got 0"),
        ({"window": -1}, r"window: got -1, allowed: 0 \(all events\) or more"),
        ({"heads": 8, "rotary": True}, "rotary: got True with 1 floats per head, allowed: an even number"),
    ],
)
def test_bad_sizes_of_a_layer_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        SequenceLayer(**({"dim": DIM, "heads": HEADS} | changes))


@pytest.mark.parametrize(
    ("with_target", "seeds", "recent"), [(True, 2, 2), (False, 2, 1), (True, 0, 0), (False, 0, 3)]
)
def test_summaries_are_target_attention_seeds_and_last_events(with_target, seeds, recent):
    torch.manual_seed(0)
    summaries = Summaries(DIM, HEADS, seeds, recent, with_target).double()
    tokens, target = torch.randn(9, DIM, dtype=torch.float64), torch.randn(4, DIM, dtype=torch.float64)
    tokens.requires_grad_()
    found, pooling = summaries(tokens, OFFSETS, target), with_target + seeds
    assert found.shape == (4, summaries.tokens, DIM) == (4, pooling + recent, DIM)
    expected = []
    for row, events in enumerate(rows(tokens)):
        events = summaries.norm(events)
        newest = torch.cat([events.flip(0), torch.zeros(recent, DIM, dtype=torch.float64)])[:recent]
        if pooling:
            queries = summaries.query(torch.cat([target[row : row + with_target], summaries.seeds]))
            k, v = summaries.key_value(events).split(DIM, dim=1)
            pooled = attend(queries, k, v) if len(events) else torch.zeros(pooling, DIM, dtype=torch.float64)
            newest = torch.cat([summaries.out(pooled), newest])
        expected.append(newest)
    torch.testing.assert_close(found, torch.stack(expected))
    inputs, weights = [tokens, *summaries.parameters()], torch.randn(found.shape, dtype=torch.float64)
    both = (
        torch.autograd.grad((x * weights).sum(), inputs, allow_unused=True)
        for x in (found, torch.stack(expected))
    )
    for mine, theirs in zip(*both, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs)


def test_summaries_of_the_user_are_those_without_the_target():
    torch.manual_seed(0)
    summaries, tokens = Summaries(DIM, HEADS, seeds=2, recent=2), torch.randn(9, DIM)
    torch.testing.assert_close(
        summaries.of_user(tokens, OFFSETS), summaries(tokens, OFFSETS, torch.randn(4, DIM))[:, 1:]
    )


def test_summaries_of_empty_histories():
    summaries = Summaries(DIM, HEADS, seeds=1, recent=2)
    found = summaries(torch.empty(0, DIM), NO_EVENTS, torch.randn(2, DIM))
    assert torch.equal(found[:, :2], summaries.out.bias.expand(2, 2, DIM)) and found[:, 2:].eq(0).all()


def test_summaries_refuse_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="heads: got 3, allowed: a divisor of the width, 8"):
        Summaries(DIM, 3, seeds=1, recent=1)


def test_last_events_are_the_last_valid_ones_of_each_row():
    tokens = torch.arange(9.0).unsqueeze(1)
    assert last_events(tokens, OFFSETS, 2).squeeze(2).tolist() == [[2, 1], [0, 0], [3, 0], [8, 7]]


def test_last_events_of_an_empty_batch_of_histories():
    assert torch.equal(last_events(torch.empty(0, 3), NO_EVENTS, 2), torch.zeros(2, 2, 3))


def test_an_event_that_is_not_there_takes_nothing_from_its_neighbour():
    tokens = torch.tensor([[torch.nan], [1.0]])
    assert last_events(tokens, torch.tensor([0, 1, 2]), 2)[1].flatten().tolist() == [1, 0]


def test_mean_of_events():
    tokens = torch.arange(9.0, dtype=torch.float64).unsqueeze(1).requires_grad_()
    assert mean_events(tokens, OFFSETS).flatten().tolist() == [1, 0, 3, 6]
    assert torch.autograd.gradcheck(lambda x: mean_events(x, OFFSETS), (tokens,))
    assert torch.equal(mean_events(torch.empty(0, 2), NO_EVENTS), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("ms", "bucket"), [(1, 0), (999, 0), (1000, 1), (1999, 1), (2000, 2), (4_000, 3), (2**62, 31)]
)
def test_ages_fall_into_doubling_buckets(ms, bucket):
    assert age_bucket(torch.tensor([ms])).item() == bucket


@pytest.mark.parametrize(
    ("minutes", "hours"),
    [(0, 0), (29, 0), (30, 1), (89, 1), (23 * 60 + 29, 23), (23 * 60 + 30, 0), (49 * 60, 1)],
)
def test_hours_apart_of_the_time_of_day(minutes, hours):
    assert hours_apart(torch.tensor([minutes * 60_000])).item() == hours


def events_of(*events: dict[str, Any]) -> Events:
    """One row of events, each given by what is not as usual."""
    usual: dict[str, Any] = {"time": 1_000, "domain": 0, "labels": [0, 0]}
    full = [usual | event for event in events]
    return Events(
        offsets=torch.tensor([0, len(full)]),
        item=torch.zeros(len(full), dtype=torch.int64),
        time=torch.tensor([e["time"] for e in full]),
        domain=torch.tensor([e["domain"] for e in full]),
        labels=torch.tensor([e["labels"] for e in full], dtype=torch.int8).view(-1, 2),
    )


NOW = torch.tensor([90_000_000])
KINDS: list[dict[str, Any]] = [
    {},
    {"domain": 1},
    {"labels": [1, 0]},
    {"labels": [0, 1]},
    {"labels": [1, 1]},
    {"labels": [0, -1]},
    {"time": 89_000_000},
    {"time": 4_000_000},
]


@pytest.mark.parametrize("merge", ["sum", "mask"])
def test_event_token_tells_surface_outcomes_and_time_apart(merge):
    torch.manual_seed(0)
    encoder = EventEncoder(DIM, domains=3, tasks=2, merge=merge)
    tokens = encoder(events_of(*KINDS), torch.zeros(len(KINDS), DIM), NOW)
    distances = torch.cdist(tokens, tokens) + torch.eye(len(KINDS))
    assert distances.min() > 1e-3


def parts(encoder, items, content):
    """Item, surface, outcomes, time of `KINDS`, and content, one list for each event."""
    # Outcomes count in threes, -1 as 0; ages of 89,999 s, 1,000 s, 86,000 s, and hours of 25, 0, 23.9.
    outcomes = [1 + 3, 1 + 3, 2 + 3, 1 + 6, 2 + 6, 1, 1 + 3, 1 + 3]
    times = [(17, 1)] * 6 + [(10, 0), (17, 0)]
    found = []
    for t, event in enumerate(KINDS):
        age, hour = times[t]
        found.append(
            [
                items[t],
                encoder.domain.weight[event.get("domain", 0)],
                encoder.outcome.weight[outcomes[t]],
                encoder.age.weight[age] + encoder.hour.weight[hour],
            ]
        )
        found[t] += [of_modality[t] for of_modality in content]
    return found


@pytest.mark.parametrize("merge", ["sum", "mask"])
@pytest.mark.parametrize("modalities", [0, 2])
def test_event_token_is_the_merge_of_its_parts(merge, modalities):
    torch.manual_seed(0)
    encoder = EventEncoder(DIM, 3, 2, merge, modalities).double()
    assert (encoder.merge is None) == (merge == "sum")
    items = torch.randn(len(KINDS), DIM, dtype=torch.float64)
    content = [torch.randn(len(KINDS), DIM, dtype=torch.float64) for _ in range(modalities)]
    expected, masked = [], encoder.merge
    for event in parts(encoder, items, content):
        if masked is None:
            token = torch.stack(event).sum(0)
        else:
            together = torch.cat(event)
            token = masked.compress(together * masked.mask(together))
        expected.append(token)
    found = encoder(events_of(*KINDS), items, NOW, content)
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("merge", ["sum", "mask"])
def test_every_part_gets_a_gradient(merge):
    torch.manual_seed(0)
    encoder, content = EventEncoder(DIM, 2, 2, merge, 1), torch.randn(8, DIM, requires_grad=True)
    tokens = encoder(events_of(*KINDS), torch.randn(8, DIM), NOW, [content])
    (tokens * torch.randn(8, DIM)).sum().backward()
    assert content.grad is not None
    assert all(gradient.abs().sum() > 0 for gradient in [content.grad, *gradients(encoder)])


def test_encoder_of_empty_histories():
    none = torch.empty(0, dtype=torch.int64)
    empty = Events(NO_EVENTS, none, none, none, torch.empty(0, 2, dtype=torch.int8))
    encoder, content = EventEncoder(DIM, 2, 2, "mask", 1), [torch.empty(0, DIM)]
    assert encoder(empty, torch.empty(0, DIM), torch.tensor([5, 6]), content).shape == (0, DIM)


def test_encoder_refuses_an_unknown_merge():
    with pytest.raises(ValueError, match="merge: got 'mean', allowed: sum, mask"):
        EventEncoder(DIM, 2, 2, "mean")  # type: ignore[arg-type]
