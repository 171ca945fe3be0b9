"""The sequence tower against plain per-row restatements in float64, and what must not matter to it."""

from typing import Any

import pytest
import torch

from distill.batch import Events
from teachers.sequence import EventEncoder, SequenceLayer, Summaries, age_bucket, last_events

LENGTHS = [3, 0, 1, 5]
OFFSETS = torch.tensor([0, 3, 3, 4, 9])
DIM, HEADS = 8, 2


def rows(tokens):
    return tokens.split(LENGTHS)


def attend(q, k, v, causal=False):
    """Softmax attention of one row: q [n, d], k and v [m, d], heads side by side in d."""
    heads = []
    for h in range(HEADS):
        part = slice(h * DIM // HEADS, (h + 1) * DIM // HEADS)
        scores = q[:, part] @ k[:, part].T / (DIM // HEADS) ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(1) @ v[:, part])
    return torch.cat(heads, 1)


def test_layer_is_pre_norm_causal_attention_and_feed_forward():
    torch.manual_seed(0)
    layer, tokens = SequenceLayer(DIM, HEADS).double(), torch.randn(9, DIM, dtype=torch.float64)
    expected = []
    for row in rows(tokens):
        if not len(row):
            continue
        q, k, v = layer.qkv(layer.norm_attention(row)).split(DIM, dim=1)
        row = row + layer.out(attend(q, k, v, causal=True))
        expected.append(row + layer.mlp(layer.norm_mlp(row)))
    torch.testing.assert_close(layer(tokens, OFFSETS), torch.cat(expected))


def test_layer_gives_an_early_event_nothing_of_a_later_one():
    torch.manual_seed(0)
    layer, tokens = SequenceLayer(DIM, HEADS), torch.randn(9, DIM)
    changed = tokens.clone()
    changed[8] += 1
    assert torch.equal(layer(tokens, OFFSETS)[:8], layer(changed, OFFSETS)[:8])


def test_summaries_are_target_attention_seeds_and_last_events():
    torch.manual_seed(0)
    summaries = Summaries(DIM, HEADS, seeds=2, recent=2).double()
    tokens, target = torch.randn(9, DIM, dtype=torch.float64), torch.randn(4, DIM, dtype=torch.float64)
    found = summaries(tokens, OFFSETS, target)
    for row, events in enumerate(rows(tokens)):
        events = summaries.norm(events)
        queries = summaries.query(torch.cat([target[row : row + 1], summaries.seeds]))
        k, v = summaries.key_value(events).split(DIM, dim=1)
        pooled = attend(queries, k, v) if len(events) else torch.zeros(3, DIM, dtype=torch.float64)
        torch.testing.assert_close(found[row, :3], summaries.out(pooled))
        newest = torch.cat([events.flip(0), torch.zeros(2, DIM, dtype=torch.float64)])[:2]
        torch.testing.assert_close(found[row, 3:], newest)


def test_last_events_are_the_last_valid_ones_of_each_row():
    tokens = torch.arange(9.0).unsqueeze(1)
    assert last_events(tokens, OFFSETS, 2).squeeze(2).tolist() == [[2, 1], [0, 0], [3, 0], [8, 7]]


def test_last_events_of_an_empty_batch_of_histories():
    assert last_events(torch.empty(0, 3), torch.zeros(3, dtype=torch.int64), 2).eq(0).all()


@pytest.mark.parametrize(
    ("ms", "bucket"), [(1, 0), (999, 0), (1000, 1), (1999, 1), (2000, 2), (4_000, 3), (2**62, 31)]
)
def test_ages_fall_into_doubling_buckets(ms, bucket):
    assert age_bucket(torch.tensor([ms])).item() == bucket


def test_event_token_tells_surface_outcome_and_age_apart():
    torch.manual_seed(0)
    encoder = EventEncoder(DIM, domains=3, tasks=2)
    base: dict[str, Any] = {"item": 0, "time": 1_000, "domain": 0, "labels": [0, 0]}
    others: list[dict[str, Any]] = [
        {"domain": 1},
        {"labels": [1, 0]},
        {"labels": [0, 1]},
        {"labels": [0, -1]},
        {"time": 900_000},
    ]
    events = [base] + [base | other for other in others]
    batch = Events(
        offsets=torch.tensor([0, len(events)]),
        item=torch.zeros(len(events), dtype=torch.int64),
        time=torch.tensor([e["time"] for e in events]),
        domain=torch.tensor([e["domain"] for e in events]),
        labels=torch.tensor([e["labels"] for e in events], dtype=torch.int8),
    )
    tokens = encoder(batch, torch.zeros(len(events), DIM), torch.tensor([1_000_000]))
    distances = torch.cdist(tokens, tokens) + torch.eye(len(events))
    assert distances.min() > 1e-3
