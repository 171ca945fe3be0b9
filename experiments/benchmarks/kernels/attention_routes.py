"""Attention over jagged rows without `kernels.jagged_attention`: what torch has for it.

Every route takes q, k, v [T, H, E] and gives [T, H, E]; `Rows` knows the rows.

Shape letters: B rows, T tokens of all rows, L tokens of the longest, H heads, E floats per head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

FINEST = 16
"""Rows up to this length are one bucket; each further one is twice as wide."""


@dataclass(frozen=True)
class Rows:
    """Lengths of rows, and whether attention is causal.

    Attributes:
        offsets: int64 [B + 1].
        lengths: the same on the host, as a data loader knows them.
        causal: a token sees those up to itself.
    """

    offsets: Tensor
    lengths: list[int]
    causal: bool

    @property
    def longest(self) -> int:
        return max(self.lengths)


def padded(rows: Rows) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """SDPA over [B, H, L, E]; padding at the end, which causal queries with a place in the row never see."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _padded(q, k, v, rows.offsets, rows.longest, rows.causal)

    return attend


def padded_eager(rows: Rows) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same by products and a softmax."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [_pad(x, rows.offsets, rows.longest) for x in (q, k, v)]
        places = torch.arange(rows.longest, device=q.device)
        seen = (places < rows.offsets.diff()[:, None])[:, None, None, :]
        if rows.causal:
            seen = seen & (places <= places[:, None])
        scores = heads[0] @ heads[1].mT * q.shape[-1] ** -0.5
        # The least number in place of -inf: a row without tokens stays finite.
        weights = scores.masked_fill(~seen, torch.finfo(q.dtype).min).softmax(-1)
        return _unpad(weights @ heads[2], rows.offsets, len(q))

    return attend


def padded_pooling(rows: Rows) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """SDPA of the same seeds [S, H, E] in every row, over padded keys: [B, S, H, E]."""

    def attend(seeds: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (_pad(x, rows.offsets, rows.longest) for x in (k, v))
        q = seeds.transpose(0, 1).expand(len(k), -1, -1, -1)
        seen = torch.arange(rows.longest, device=k.device) < rows.offsets.diff()[:, None]
        return scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :]).transpose(1, 2)

    return attend


def split(rows: Rows) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """One call of SDPA a row."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # `split` has one gradient; that of a slice would fill a whole tensor with zeros.
        parts = zip(*(x.split(rows.lengths) for x in (q, k, v)), strict=True)
        return torch.cat([_one(a, b, c, rows.causal) for a, b, c in parts if len(a)])

    return attend


def bucketed(rows: Rows) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Padded SDPA within buckets of length FINEST, 2 FINEST, ...: rows are sorted by length, and sorted back."""
    lengths = torch.tensor(rows.lengths)
    order = torch.argsort(lengths, stable=True)
    starts = rows.offsets.cpu()[:-1][order]
    sorted_lengths = lengths[order]
    ends = sorted_lengths.cumsum(0)
    tokens = torch.arange(int(ends[-1]))
    places = (tokens + (starts - (ends - sorted_lengths)).repeat_interleave(sorted_lengths)).to(
        rows.offsets.device
    )
    back = torch.argsort(places)
    buckets = _buckets(sorted_lengths)
    device = rows.offsets.device
    offsets = [
        torch.cat([torch.zeros(1, dtype=torch.int64), bucket.cumsum(0)]).to(device) for bucket in buckets
    ]
    sizes, longest = [int(bucket.sum()) for bucket in buckets], [int(bucket.max()) for bucket in buckets]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = zip(*(_take(x, places).split(sizes) for x in (q, k, v)), strict=True)
        outs = [
            _padded(a, b, c, o, most, rows.causal)
            for (a, b, c), o, most in zip(parts, offsets, longest, strict=True)
        ]
        return _take(torch.cat(outs), back)

    return attend


def flex(rows: Rows, compiled: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention over one row of all tokens, its mask built in every call, as new rows ask for.

    Args:
        rows: the rows.
        compiled: by torch.compile, without which it is no fast path.
    """
    function = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        row = torch.arange(len(rows.lengths), device=q.device).repeat_interleave(
            rows.offsets.diff(), output_size=len(q)
        )

        def seen(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            same = row[i] == row[j]
            return same & (j <= i) if rows.causal else same

        mask = create_block_mask(seen, None, None, len(q), len(q), device=q.device, _compile=compiled)
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        return function(q, k, v, block_mask=mask).squeeze(0).transpose(0, 1)

    return attend


def varlen(rows: Rows) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """torch's attention of variable lengths, on CUDA only."""
    offsets, window = rows.offsets.to(torch.int32), (-1, 0 if rows.causal else -1)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = varlen_attn(q, k, v, offsets, offsets, rows.longest, rows.longest, window_size=window)
        assert isinstance(out, Tensor)
        return out

    return attend


def _padded(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, causal: bool) -> Tensor:
    q_, k_, v_ = (_pad(x, offsets, longest) for x in (q, k, v))
    mask = None
    if not causal:
        mask = (torch.arange(longest, device=q.device) < offsets.diff()[:, None])[:, None, None, :]
    out = scaled_dot_product_attention(q_, k_, v_, attn_mask=mask, is_causal=causal)
    return _unpad(out, offsets, len(q))


def _pad(x: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """[T, H, E] to [B, H, L, E], zeros at the end of each row."""
    rows = len(offsets) - 1
    full = x.new_zeros(rows * longest, x.shape[1] * x.shape[2])
    full = full.index_copy(0, _places(offsets, longest, len(x)), x.flatten(1))
    return full.view(rows, longest, *x.shape[1:]).transpose(1, 2)


def _unpad(x: Tensor, offsets: Tensor, tokens: int) -> Tensor:
    """[B, H, L, E] to [T, H, E]."""
    return _take(x.transpose(1, 2).flatten(0, 1), _places(offsets, x.shape[2], tokens))


def _places(offsets: Tensor, longest: int, tokens: int) -> Tensor:
    """Where the tokens lie among the B L places, int64 [T]."""
    lengths = offsets.diff()
    free = torch.arange(len(lengths), device=offsets.device) * longest - offsets[:-1]
    return torch.arange(tokens, device=offsets.device) + free.repeat_interleave(lengths, output_size=tokens)


def _one(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=causal).squeeze(0).transpose(0, 1)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """Rows of x in another order; on two dimensions, where the gradient is many times faster."""
    return x.flatten(1).index_select(0, places).unflatten(1, x.shape[1:])


def _buckets(lengths: Tensor) -> list[Tensor]:
    """Sorted lengths above 0, cut where a bucket ends."""
    lengths, edge, buckets = lengths[lengths > 0], FINEST, []
    while len(lengths):
        count = int((lengths <= edge).sum())
        if count:
            buckets.append(lengths[:count])
        lengths, edge = lengths[count:], 2 * edge
    return buckets
