"""Pyramid-parallel attention for long histories [ours; the engineering post on GEM names the structure, no more].

Closest published forms: the tail-query pyramid of OneTrans, the user tower of SUM. A layer keeps the newest `keep`
tokens of every row as queries; all tokens of the row are keys, cut from newest to oldest into P parts of equal size,
each read by a module of its own. Layers with ever smaller `keep`, one on another, make the pyramid:

    A_p   = attention(N Wq_p, X_p Wk_p, X_p Wv_p)        N kept tokens, X_p part p, both normed; 0 where X_p is empty
    G     = P softmax_p(N W_g + b_g)                     one gate per module and head; all 1 at the start
    N'    = N + sum over p of (G_p * A_p) Wo_p + b,      N'' = N' + MLP(LN(N'))

A token is projected once, by the module of its part, and meets `keep` queries at most: cost grows linearly with the
history. All of it lies before the example, so that no order has to be kept among the tokens.

Shape letters: B rows, T tokens of all rows, N kept tokens of all rows, d width, H heads, E = d / H, P modules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.jagged_attention import jagged_attention
from teachers.rotary import places, rotate, turns
from teachers.sequence import check_heads, feed_forward


class PyramidLayer(nn.Module):
    """See the module's text.

    Args:
        dim: d.
        heads: H, dividing d.
        keep: most tokens of a row that are kept; a shorter row stays whole.
        modules: P.
        rotary: rotary positions; E must be even.

    Raises:
        ValueError: sizes that do not fit.
    """

    def __init__(self, dim: int, heads: int, keep: int, modules: int, rotary: bool = False):
        super().__init__()
        check_heads(dim, heads, rotary)
        for name, number in {"keep": keep, "modules": modules}.items():
            if number < 1:
                raise ValueError(f"{name}: got {number}, allowed: at least 1")
        self.heads, self.keep, self.parts, self.rotary = heads, keep, modules, rotary
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.out = nn.Linear(dim, modules * dim), nn.Linear(modules * dim, dim)
        self.key_value = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in range(modules))
        self.gate = nn.Linear(dim, modules * heads)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Args: tokens [T, d], offsets int64 [B + 1]. Returns: kept tokens [N, d] in time order, and their offsets."""
        kept, kept_offsets = newest(offsets, self.keep)
        below = self.norm_attention(tokens)
        tokens, queries = tokens.index_select(0, kept), below.index_select(0, kept)
        attended = self._attend(queries, kept, kept_offsets, below, offsets)
        gates = self.gate(queries).unflatten(1, (self.parts, self.heads)).softmax(dim=1) * self.parts
        tokens = tokens + self.out((attended * gates.unsqueeze(3)).flatten(1))
        return feed_forward(tokens, self.norm_mlp, self.mlp), kept_offsets

    def _attend(
        self, queries: Tensor, kept: Tensor, kept_offsets: Tensor, below: Tensor, offsets: Tensor
    ) -> Tensor:
        """Every module's attention of the kept tokens to its part, [N, P, H, E]; a part of a row counts as a row."""
        order, k_offsets = parts_of(offsets, self.parts)
        module = torch.arange(self.parts + 1, device=offsets.device)
        pieces = below.index_select(0, order).split(k_offsets[module * (len(offsets) - 1)].diff().tolist())
        projected = torch.cat([project(x) for project, x in zip(self.key_value, pieces, strict=True)])
        k, v = projected.unflatten(1, (2, self.heads, -1)).unbind(1)
        q = self.query(queries).unflatten(1, (self.parts, self.heads, -1))
        if self.rotary:
            turn = turns(places(offsets, len(below)), q.shape[-1], q.dtype)
            q, k = rotate(q, turn.index_select(0, kept)), rotate(k, turn.index_select(0, order))
        first = module[:, None] * len(kept)
        q_offsets = torch.cat([(first[:-1] + kept_offsets[:-1]).flatten(), first[-1]])
        attended = jagged_attention(q.transpose(0, 1).flatten(0, 1), k, v, q_offsets, k_offsets)
        return attended.unflatten(0, (self.parts, -1)).transpose(0, 1)


def newest(offsets: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The last `keep` tokens of every row, all of a shorter one.

    Args:
        offsets: int64 [B + 1].
        keep: at least 1.

    Returns:
        Their places int64 [N] in time order, and their offsets int64 [B + 1].
    """
    lengths = offsets.diff().clamp(max=keep)
    return _runs(offsets[1:] - lengths, lengths)


def parts_of(offsets: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Rows cut into parts whose sizes differ by one at most, the newest part first and never smaller than the next.

    Args:
        offsets: int64 [B + 1].
        parts: P.

    Returns:
        Places of all tokens int64 [T]: the newest parts of all rows, then the next ones, each in time order; and
        offsets of these runs int64 [P B + 1].
    """
    place = torch.arange(parts, device=offsets.device)[:, None]
    sizes = (offsets.diff() + parts - 1 - place) // parts
    return _runs((offsets[1:] - sizes.cumsum(0)).flatten(), sizes.flatten())


def _runs(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Places start, start + 1, ... of every run, one run after another, and the runs' offsets."""
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    total = int(offsets[-1])
    places = torch.arange(total, device=starts.device)
    return places + (starts - offsets[:-1]).repeat_interleave(lengths, output_size=total), offsets
