"""The teacher without this project's kernels: padded histories, or real lengths one row after the other.

The functions that the blocks in `teachers` call are replaced while a rung computes. What comes out is the same but for
rounding (`experiments.studies.efficiency.work` compares), so that only the cost differs.

Shape letters: B rows, L tokens of the longest, T tokens of all rows, q queries of a row, H heads, E floats per head,
W any width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from distill.batch import Batch, Events
from kernels.jagged_attention import jagged_attention
from kernels.norm_ffn import norm_ffn
from kernels.norm_ffn.reference import norm_ffn as plain_norm_ffn
from kernels.segments import Segments, pool, spread
from kernels.wukong_fm import wukong_fm
from kernels.wukong_fm.reference import wukong_fm as plain_wukong_fm
from teachers.sequence import last_events, mean_events

PLAIN: dict[Any, Any] = {norm_ffn: plain_norm_ffn, wukong_fm: plain_wukong_fm}


@contextmanager
def replaced(substitutes: Mapping[Any, Any]) -> Iterator[None]:
    """Inside, every module of `teachers` finds other functions under the same names.

    Args:
        substitutes: what a module holds to what it finds.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith("teachers.")]
    by_identity = {id(value): other for value, other in substitutes.items()}
    found = [
        (module, name, value)
        for module in modules
        for name, value in vars(module).items()
        if id(value) in by_identity
    ]
    try:
        for module, name, value in found:
            setattr(module, name, by_identity[id(value)])
        yield
    finally:
        for module, name, value in found:
            setattr(module, name, value)


def stock() -> dict[Any, Any]:
    """Real lengths: attention row by row, all else by its definition."""
    return {**PLAIN, jagged_attention: _per_row, pool: _plain_pool, spread: _plain_spread}


@dataclass(frozen=True)
class Padded:
    """A batch whose histories have padding at the end, and the functions that know where it lies.

    Attributes:
        batch: every history with L events.
        lengths: int64 [B], the real ones.
        longest: L.
    """

    batch: Batch
    lengths: Tensor
    longest: int

    @classmethod
    def of(cls, batch: Batch) -> Padded:
        """Pad to the batch's longest history, at least one event."""
        events = batch.history
        assert events is not None, "a teacher without a history has nothing to pad"
        lengths = events.offsets.diff()
        longest = max(1, int(lengths.max()))
        rows = torch.arange(len(lengths), device=lengths.device)
        offsets = torch.arange(len(lengths) + 1, device=lengths.device) * longest
        places = torch.arange(len(events.item), device=lengths.device)
        places = places + (rows * longest - events.offsets[:-1]).repeat_interleave(lengths)
        columns = {
            name: (old := getattr(events, name))
            .new_zeros(int(offsets[-1]), *old.shape[1:])
            .index_copy(0, places, old)
            for name in ("item", "time", "domain", "labels")
        }
        return cls(replace(batch, history=Events(offsets=offsets, **columns)), lengths, longest)

    @property
    def substitutes(self) -> dict[Any, Any]:
        """For `replaced`."""
        return {
            **PLAIN,
            jagged_attention: self._attention,
            Segments: _PaddedSegments(self.lengths),
            pool: self._pool,
            spread: self._spread,
            last_events: self._last_events,
            mean_events: lambda tokens, offsets: (
                self._pool(tokens, None) / self.lengths.clamp_min(1).unsqueeze(1)
            ),
        }

    def _attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_offsets: Tensor | None,
        k_offsets: Tensor,
        *,
        causal: bool = False,
        window: int = 0,
        scale: float | None = None,
    ) -> Tensor:
        assert q_offsets is not None and not window, "a form that is not made for padding"
        rows = len(self.lengths)
        heads = [x.unflatten(0, (rows, -1)).transpose(1, 2) for x in (q, k, v)]
        mask = None
        if not causal:  # padding lies at the end, where a causal query with a place in the row never looks
            seen = torch.arange(self.longest, device=q.device) < self.lengths.clamp_min(1)[:, None]
            mask = seen[:, None, None, :]
        out = scaled_dot_product_attention(heads[0], heads[1], heads[2], mask, is_causal=causal, scale=scale)
        out = out * (self.lengths > 0)[:, None, None, None]
        return out.transpose(1, 2).flatten(0, 1)

    def _pool(self, values: Tensor, segments: Any, weights: Tensor | None = None) -> Tensor:
        if weights is not None:
            values = values * weights.unsqueeze(1)
        rows = values.unflatten(0, (len(self.lengths), self.longest))
        seen = torch.arange(self.longest, device=values.device) < self.lengths[:, None]
        return (rows * seen.unsqueeze(2)).sum(1)

    def _spread(self, values: Tensor, segments: Any) -> Tensor:
        return values.unsqueeze(1).expand(-1, self.longest, -1).flatten(0, 1)

    def _last_events(self, tokens: Tensor, offsets: Tensor, count: int) -> Tensor:
        rows = tokens.unflatten(0, (len(self.lengths), self.longest))
        place = self.lengths[:, None] - 1 - torch.arange(count, device=tokens.device)
        found = rows.gather(1, place.clamp(min=0).unsqueeze(2).expand(-1, -1, tokens.shape[1]))
        return torch.where((place >= 0).unsqueeze(2), found, 0.0)


@dataclass(frozen=True)
class _PaddedSegments:
    """Stands for the class `Segments` and for what it makes, of which the real lengths are asked."""

    lengths: Tensor

    def of(self, offsets: Tensor, events: int) -> _PaddedSegments:
        return self


def _per_row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor | None,
    k_offsets: Tensor,
    *,
    causal: bool = False,
    window: int = 0,
    scale: float | None = None,
) -> Tensor:
    """A call of torch's attention for every row."""
    assert q_offsets is not None and not window, "a form that is not made for single rows"
    queries, keys = q_offsets.diff().tolist(), k_offsets.diff().tolist()
    rows = zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
    return torch.cat([_row(*row, causal, scale) if len(row[1]) else row[0] * 0.0 for row in rows])


def _row(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).squeeze(0).transpose(0, 1)


def _plain_pool(values: Tensor, segments: Segments, weights: Tensor | None = None) -> Tensor:
    if weights is not None:
        values = values * weights.unsqueeze(1)
    return values.new_zeros(len(segments.lengths), values.shape[1]).index_add(0, segments.rows, values)


def _plain_spread(values: Tensor, segments: Segments) -> Tensor:
    return values.index_select(0, segments.rows)
