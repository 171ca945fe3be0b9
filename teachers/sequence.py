"""Sequence tower: events of the past as tokens, self-attention among them, summaries for the other tower.

Shape letters: B examples, T events of the batch (jagged), d width, H heads, K tasks of the schema, R recent events,
S seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.batch import Events
from kernels.jagged_attention import jagged_attention

_AGES = 32


class EventEncoder(nn.Module):
    """Token of an event: its item's embedding plus surface, outcomes and age.

    Args:
        dim: d.
        domains: number of surfaces.
        tasks: K.
    """

    powers: Tensor

    def __init__(self, dim: int, domains: int, tasks: int):
        super().__init__()
        self.domain = nn.Embedding(domains, dim)
        self.outcome = nn.Embedding(3**tasks, dim)
        self.age = nn.Embedding(_AGES, dim)
        self.register_buffer("powers", 3 ** torch.arange(tasks), persistent=False)
        self.norm = nn.LayerNorm(dim)
        for table in (self.domain, self.outcome, self.age):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, events: Events, items: Tensor, now: Tensor) -> Tensor:
        """Args: events; items float32 [T, d]; now int64 [B], ms. Returns: [T, d]."""
        lengths = events.offsets.diff()
        age = torch.repeat_interleave(now, lengths) - events.time
        outcome = ((events.labels.long() + 1) * self.powers).sum(dim=1)
        token = items + self.domain(events.domain) + self.outcome(outcome) + self.age(age_bucket(age))
        return self.norm(token)


def age_bucket(age: Tensor) -> Tensor:
    """Log-spaced age of an event: bucket b holds ages from 2^(b - 1) to 2^b seconds.

    Args:
        age: int64, ms.

    Returns:
        int64 in [0, 32).
    """
    seconds = age.clamp(min=1).double() / 1000
    return (seconds.log2().floor() + 1).clamp(0, _AGES - 1).long()


class SequenceLayer(nn.Module):
    """Pre-norm causal self-attention and a feed-forward block, over jagged rows.

    Args:
        dim: d.
        heads: H, dividing d.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Args: tokens [T, d], offsets int64 [B + 1]. Returns: [T, d]."""
        heads = self.heads, tokens.shape[1] // self.heads
        q, k, v = self.qkv(self.norm_attention(tokens)).view(-1, 3, *heads).unbind(1)
        attended = jagged_attention(q, k, v, offsets, offsets, causal=True)
        tokens = tokens + self.out(attended.flatten(1))
        return tokens + self.mlp(self.norm_mlp(tokens))


class Summaries(nn.Module):
    """A fixed number of tokens about a jagged history: target attention, PMA, the last events.

    Args:
        dim: d.
        heads: H.
        seeds: S.
        recent: R.
    """

    def __init__(self, dim: int, heads: int, seeds: int, recent: int):
        super().__init__()
        self.heads, self.recent, self.tokens = heads, recent, 1 + seeds + recent
        self.seeds = nn.Parameter(torch.randn(seeds, dim) * dim**-0.5)
        self.norm = nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, offsets: Tensor, target: Tensor) -> Tensor:
        """Args: tokens [T, d], offsets int64 [B + 1], target [B, d]. Returns: [B, 1 + S + R, d], 0 where empty."""
        batch, dim = target.shape
        heads = self.heads, dim // self.heads
        normed = self.norm(tokens)
        k, v = self.key_value(normed).view(-1, 2, *heads).unbind(1)
        queries = torch.cat([target.unsqueeze(1), self.seeds.expand(batch, -1, -1)], dim=1)
        q = self.query(queries).view(-1, *heads)
        per_row = queries.shape[1]
        q_offsets = torch.arange(0, batch * per_row + 1, per_row, device=offsets.device)
        pooled = jagged_attention(q, k, v, q_offsets, offsets).reshape(batch, per_row, dim)
        return torch.cat([self.out(pooled), last_events(normed, offsets, self.recent)], dim=1)


def last_events(tokens: Tensor, offsets: Tensor, count: int) -> Tensor:
    """The last `count` valid tokens of every row, newest first; zeros where a row is shorter.

    Args:
        tokens: [T, d].
        offsets: int64 [B + 1].
        count: R.

    Returns:
        [B, R, d].
    """
    place = offsets[1:, None] - 1 - torch.arange(count, device=offsets.device)
    valid = place >= offsets[:-1, None]
    padded = torch.cat([tokens, tokens.new_zeros(1, tokens.shape[1])])
    return padded[torch.where(valid, place, len(tokens))]
