"""Sequence tower: events of the past as tokens, self-attention among them, summaries for the other tower.

Every layer over the history maps tokens [T, d] and their offsets to tokens and offsets: `SequenceLayer` keeps all
tokens, `teachers.pyramid.PyramidLayer` the newest.

Shape letters: B examples, T events of the batch (jagged), d width, H heads, E = d / H, K tasks of the schema, n parts
of an event, R recent events, S seeds, q pooling queries of an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from distill.batch import Events
from kernels.jagged_attention import jagged_attention
from kernels.norm_ffn import norm_ffn
from teachers.rotary import places, rotate, turns

MERGES = ("sum", "mask")
_AGES = 32
_HOURS = 24
_HOUR_MS = 3_600_000


class EventEncoder(nn.Module):
    """Token of an event, made of its parts: item, surface, outcomes, time, and one for each modality.

    Outcomes are all that is known at once: an embedding for each combination of yes, no and not known yet over the K
    tasks, "seen and nothing else" among them. Time is how long ago, in doubling steps, plus (ours) how many hours off
    the present hour of the day.

    - merge "sum": the sum of the parts.
    - merge "mask": W_lce (S_cat * MLP_mask(S_cat)), S_cat [T, n d] the parts side by side (InterFormer, arXiv
      2411.09852; the MLP with ReLU and d hidden units is ours). The mask starts near 1.

    No norm: it would lift the rows of items that were hardly ever trained to the size of all others.

    Args:
        dim: d.
        domains: number of surfaces.
        tasks: K.
        merge: of the parts, `sum` or `mask`.
        modalities: how many tokens of content come with an event.

    Raises:
        ValueError: an unknown merge.
    """

    powers: Tensor

    def __init__(
        self,
        dim: int,
        domains: int,
        tasks: int,
        merge: Literal["sum", "mask"] = "sum",
        modalities: int = 0,
    ):
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge: got '{merge}', allowed: {', '.join(MERGES)}")
        self.domain = nn.Embedding(domains, dim)
        self.outcome = nn.Embedding(3**tasks, dim)
        self.age, self.hour = nn.Embedding(_AGES, dim), nn.Embedding(_HOURS, dim)
        for table in (self.domain, self.outcome, self.age, self.hour):
            nn.init.normal_(table.weight, std=0.1)
        self.register_buffer("powers", 3 ** torch.arange(tasks), persistent=False)
        self.modalities = modalities
        self.merge = MaskMerge(4 + modalities, dim) if merge == "mask" else None

    def forward(self, events: Events, items: Tensor, now: Tensor, content: Sequence[Tensor] = ()) -> Tensor:
        """Tokens of the events, [T, d].

        Args:
            events: of the batch.
            items: float32 [T, d], embeddings of the events' items.
            now: int64 [B], ms, the examples' times.
            content: a token [T, d] of each modality (`teachers.modality`).
        """
        assert len(content) == self.modalities, f"{len(content)} modalities, made for {self.modalities}"
        ages = now.repeat_interleave(events.offsets.diff(), output_size=len(items)) - events.time
        outcome = ((events.labels.long() + 1) * self.powers).sum(dim=1)
        time = self.age(age_bucket(ages)) + self.hour(hours_apart(ages))
        parts = [items, self.domain(events.domain), self.outcome(outcome), time, *content]
        return sum(parts[1:], parts[0]) if self.merge is None else self.merge(parts)


class MaskMerge(nn.Module):
    """W_lce (S_cat * MLP_mask(S_cat)): parts weighed, unit by unit, by what all of them say, then compressed.

    Args:
        parts: n.
        dim: d.
    """

    def __init__(self, parts: int, dim: int):
        super().__init__()
        widen = nn.Linear(dim, parts * dim)
        nn.init.ones_(widen.bias)
        self.mask = nn.Sequential(nn.Linear(parts * dim, dim), nn.ReLU(), widen)
        self.compress = nn.Linear(parts * dim, dim)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Args: n parts [T, d]. Returns: [T, d]."""
        together = torch.cat(parts, dim=1)
        return self.compress(together * self.mask(together))


def age_bucket(age: Tensor) -> Tensor:
    """Log-spaced age of an event: bucket b holds ages from 2^(b - 1) to 2^b seconds.

    Args:
        age: int64, ms.

    Returns:
        int64 in [0, 32).
    """
    seconds = age.clamp(min=1).double() / 1000
    return (seconds.log2().floor() + 1).clamp(0, _AGES - 1).long()


def hours_apart(age: Tensor) -> Tensor:
    """Hour of the day of an event relative to now: 0 within half an hour of the same time of day, 1 an hour earlier.

    Args:
        age: int64, ms.

    Returns:
        int64 in [0, 24).
    """
    return (age + _HOUR_MS // 2) // _HOUR_MS % _HOURS


class SequenceLayer(nn.Module):
    """Pre-norm self-attention and a feed-forward block, over jagged rows.

    Args:
        dim: d.
        heads: H, dividing d.
        causal: an event attends to itself and earlier ones only.
        window: an event attends to those less than this many places away; 0 for all.
        rotary: rotary positions; E must be even.

    Raises:
        ValueError: heads or a window that do not fit.
    """

    def __init__(self, dim: int, heads: int, causal: bool = True, window: int = 0, rotary: bool = False):
        super().__init__()
        check_heads(dim, heads, rotary)
        if window < 0:
            raise ValueError(f"window: got {window}, allowed: 0 (all events) or more")
        self.heads, self.causal, self.window, self.rotary = heads, causal, window, rotary
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Args: tokens [T, d], offsets int64 [B + 1]. Returns: [T, d] and the same offsets."""
        qk, v = self.qkv(self.norm_attention(tokens)).unflatten(1, (3, self.heads, -1)).split([2, 1], dim=1)
        if self.rotary:
            qk = rotate(qk, turns(places(offsets, len(tokens)), qk.shape[-1], qk.dtype))
        q, k = qk.unbind(1)
        attended = jagged_attention(
            q, k, v.squeeze(1), offsets, offsets, causal=self.causal, window=self.window
        )
        tokens = tokens + self.out(attended.flatten(1))
        return feed_forward(tokens, self.norm_mlp, self.mlp), offsets


def feed_forward(tokens: Tensor, norm: nn.LayerNorm, mlp: nn.Sequential) -> Tensor:
    """tokens + mlp(norm(tokens)) in one operator, for an MLP of two linear layers and a GELU between them.

    Args: tokens [T, d], norm over d, mlp from d to d. Returns: [T, d].
    """
    first, _, last = mlp
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    return norm_ffn(
        tokens, norm.weight, norm.bias, first.weight, first.bias, last.weight, last.bias, eps=norm.eps
    )


def check_heads(dim: int, heads: int, rotary: bool) -> None:
    """Refuse heads that do not divide the width, and rotary positions over an odd number of floats."""
    if heads < 1 or dim % heads:
        raise ValueError(f"heads: got {heads}, allowed: a divisor of the width, {dim}")
    if rotary and dim // heads % 2:
        raise ValueError(f"rotary: got True with {dim // heads} floats per head, allowed: an even number")


class Summaries(nn.Module):
    """A fixed number of tokens about a jagged history: target attention, PMA, the last events.

    Keys and values are never formed. With few queries per row, q . (W_k x) is cheaper as (W_k^T q) . x, and the sum
    of a_t W_v x_t as W_v times the sum of a_t x_t (exact; a bias of the keys would change nothing, one of the values
    is the output's).

    Args:
        dim: d.
        heads: H, dividing d.
        seeds: S, learned queries (PMA of the Set Transformer, arXiv 1810.00825).
        recent: R.
        target: whether the item at hand attends to the history.

    Attributes:
        tokens: how many come out.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, dim: int, heads: int, seeds: int, recent: int, target: bool = True):
        super().__init__()
        check_heads(dim, heads, rotary=False)
        self.heads, self.recent, self.target = heads, recent, target
        self.tokens = target + seeds + recent
        self.seeds: Tensor
        self.norm = nn.LayerNorm(dim)
        if seeds:
            self.seeds = nn.Parameter(torch.randn(seeds, dim) * dim**-0.5)
        else:  # no parameter that nothing trains
            self.register_buffer("seeds", torch.zeros(0, dim), persistent=False)
        if target or seeds:
            self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim, bias=False)
            self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, offsets: Tensor, target: Tensor | None = None) -> Tensor:
        """All summaries, in the order target, seeds, recent events with the newest first.

        Args:
            tokens: [T, d].
            offsets: int64 [B + 1].
            target: [B, d]; needed if this block has a target, not read otherwise.

        Returns:
            [B, tokens, d]. Of an empty history, attention gives the bias of its output, and recent events are 0.
        """
        if not self.target:
            return self.of_user(tokens, offsets)
        assert target is not None, "summaries of a target without a target"
        seeds = self.seeds.expand(len(target), -1, -1)
        return self._read(tokens, offsets, torch.cat([target.unsqueeze(1), seeds], dim=1))

    def of_user(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """The summaries that do not depend on the target: arguments as above, result [B, S + R, d]."""
        return self._read(tokens, offsets, self.seeds.expand(len(offsets) - 1, -1, -1))

    def _read(self, tokens: Tensor, offsets: Tensor, queries: Tensor) -> Tensor:
        normed = self.norm(tokens)
        recent = last_events(normed, offsets, self.recent)
        if not queries.shape[1]:
            return recent
        return torch.cat([self.out(self._pool(normed, offsets, queries)), recent], dim=1)

    def _pool(self, tokens: Tensor, offsets: Tensor, queries: Tensor) -> Tensor:
        """Attention of queries [B, q, d] to tokens [T, d]: [B, q, d]."""
        batch, per_row, dim = queries.shape
        key, value = self.key_value.weight.view(2, self.heads, -1, dim)
        heads = self.query(queries).unflatten(2, (self.heads, -1))
        absorbed = torch.einsum("bqhe,hed->bqhd", heads, key).reshape(-1, 1, dim)
        q_offsets = torch.arange(batch + 1, device=offsets.device) * (per_row * self.heads)
        x = tokens.unsqueeze(1)
        pooled = jagged_attention(absorbed, x, x, q_offsets, offsets, scale=heads.shape[3] ** -0.5)
        return torch.einsum("bqhd,hed->bqhe", pooled.view(batch, per_row, self.heads, dim), value).flatten(2)


def last_events(tokens: Tensor, offsets: Tensor, count: int) -> Tensor:
    """The last `count` valid tokens of every row, newest first; zeros where a row is shorter.

    Args: tokens [T, d], offsets int64 [B + 1], count R. Returns: [B, R, d].
    """
    place = offsets[1:, None] - 1 - torch.arange(count, device=offsets.device)
    if not len(tokens):
        return tokens.new_zeros(*place.shape, tokens.shape[1])
    valid = place >= offsets[:-1, None]
    return torch.where(valid.unsqueeze(2), tokens[place.clamp(min=0)], 0.0)


def mean_events(tokens: Tensor, offsets: Tensor) -> Tensor:
    """The mean of every row's tokens, zeros for an empty row. Args: tokens [T, d], offsets int64 [B + 1]."""
    return torch.segment_reduce(tokens, "mean", offsets=offsets, axis=0, initial=0)
