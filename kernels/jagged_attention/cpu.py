"""CPU path of jagged softmax attention: rows of equal lengths together, one call of flash attention each.

Nothing is padded and nothing is masked. A group is copied out, attended and copied back while it is in the
cache; a row of a length of its own, which long rows mostly are, is not copied at all.

Shape letters: B rows, Tq and Tk queries and keys of all rows, H heads, E floats per head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Part:
    """The tokens of one group: `rows` rows of `length` each.

    Attributes:
        rows, length: how many, and of how many tokens.
        where: a slice when there is one row, else int64 [rows * length] positions.
    """

    rows: int
    length: int
    where: slice | Tensor

    def take(self, x: Tensor) -> Tensor:
        """The group's tokens of x [T, H, ...] as [rows, H, length, ...]."""
        found = x[self.where] if isinstance(self.where, slice) else x.index_select(0, self.where)
        return found.unflatten(0, (self.rows, self.length)).transpose(1, 2)

    def put(self, x: Tensor, values: Tensor) -> None:
        """Write values [rows, H, length, ...] to the group's tokens of x [T, H, ...]."""
        values = values.transpose(1, 2).flatten(0, 1)
        if isinstance(self.where, slice):
            x[self.where] = values
        else:
            x.index_copy_(0, self.where, values)


def groups(q_offsets: Tensor, k_offsets: Tensor) -> Iterator[tuple[Part, Part]]:
    """Queries and keys of every group of rows that have equally many of both, and at least one of each.

    Args:
        q_offsets, k_offsets: int64 [B + 1].
    """
    q_lengths, k_lengths = q_offsets.diff(), k_offsets.diff()
    base = int(k_lengths.max()) + 1 if len(k_lengths) else 1
    kinds, order = (q_lengths * base + k_lengths).sort(stable=True)
    kinds, counts = kinds.unique_consecutive(return_counts=True)
    q_starts, k_starts = q_offsets[:-1][order], k_offsets[:-1][order]
    first = 0
    for kind, rows in zip(kinds.tolist(), counts.tolist(), strict=True):
        q_length, k_length = divmod(kind, base)
        if q_length and k_length:
            queries = _part(q_starts[first : first + rows], q_length)
            same = q_offsets is k_offsets
            yield queries, queries if same else _part(k_starts[first : first + rows], k_length)
        first += rows


def _part(starts: Tensor, length: int) -> Part:
    rows = len(starts)
    if rows == 1:
        start = int(starts)
        return Part(1, length, slice(start, start + length))
    return Part(rows, length, (starts[:, None] + torch.arange(length)).view(-1))


def forward(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, k_offsets: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp.

    Args:
        q: [Tq, H, E].
        k, v: [Tk, H, E].
        q_offsets, k_offsets: int64 [B + 1].
        causal: a query sees the keys up to its own place only.
        scale: of the scores.

    Returns:
        Output [Tq, H, E], zero where a row has no key, and log-sum-exp of the scores [Tq, H], -inf there.
    """
    out, lse = _unwritten(q, q_offsets, k_offsets), q.new_full(q.shape[:2], -torch.inf)
    for queries, keys in groups(q_offsets, k_offsets):
        part, part_lse = flash(queries.take(q), keys.take(k), keys.take(v), 0.0, causal, scale=scale)
        queries.put(out, part)
        queries.put(lse, part_lse)
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of the output; the probabilities are computed again from `lse`."""
    dq, dk, dv = (_unwritten(x, q_offsets, k_offsets) for x in (q, k, v))
    for queries, keys in groups(q_offsets, k_offsets):
        saved = (queries.take(q), keys.take(k), keys.take(v), queries.take(out), queries.take(lse))
        part_dq, part_dk, part_dv = flash_backward(queries.take(grad), *saved, 0.0, causal, scale=scale)
        queries.put(dq, part_dq)
        keys.put(dk, part_dk)
        keys.put(dv, part_dv)
    return dq, dk, dv


def _unwritten(x: Tensor, q_offsets: Tensor, k_offsets: Tensor) -> Tensor:
    """Memory like x for the groups to write; zeros when a row has only queries or only keys, as none does."""
    one_sided = (q_offsets.diff() == 0) != (k_offsets.diff() == 0)
    return torch.zeros_like(x) if bool(one_sided.any()) else torch.empty_like(x)
