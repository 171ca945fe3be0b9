"""CPU path of jagged softmax attention: blocks of equal shape together, one call of flash attention each.

A group is copied out, attended and copied back while it is in the cache; rows of one length that lie one behind
another, and a row of a length of its own, which long rows mostly are, are not copied at all. Only a window needs a
mask, one for all blocks of a shape. The keys of neighbouring blocks overlap under a window, so that their gradients
are added up.

Shape letters: B rows, Tq and Tk queries and keys of all rows, H heads, E floats per head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from kernels.jagged_attention.blocks import Group, groups, heads_first, unwritten

flash = torch._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
LONG, KEYS = 512, 256
"""From so many queries and keys on the backward pass takes keys in runs, whose scores stay in the caches: 7 % less, and
in causal order, where it also computes fewer of them, 10 %."""


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp.

    Args:
        q: [Tq, H, E].
        k, v: [Tk, H, E].
        q_offsets, k_offsets: int64 [B + 1].
        causal: a query sees the keys up to its own place only.
        window: a query sees the keys closer than this; 0 for all.
        scale: of the scores.

    Returns:
        Output [Tq, H, E], zero where a row has no key, and log-sum-exp of the scores [Tq, H], -inf there; float32
        for bfloat16 input.
    """
    out = unwritten(q, q_offsets, k_offsets)
    lse = out.new_full(q.shape[:2], -torch.inf, dtype=lse_dtype(q))
    q, k, v, to_out, to_lse = (heads_first(x) for x in (q, k, v, out, lse))
    for group in groups(q_offsets, k_offsets, causal, window):
        queries, keys = group.queries, group.keys
        plain_causal, mask = _seen(group, causal, window, q.dtype)
        part, part_lse = flash(
            queries.take(q), keys.take(k), keys.take(v), 0.0, plain_causal, attn_mask=mask, scale=scale
        )
        queries.put(to_out, part)
        queries.put(to_lse, part_lse)
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
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of the output; the probabilities are computed again from `lse`."""
    dq = unwritten(q, q_offsets, k_offsets)
    dk, dv = (x.new_zeros(x.shape) if window else unwritten(x, q_offsets, k_offsets) for x in (k, v))
    to_dq, to_dk, to_dv = (heads_first(x) for x in (dq, dk, dv))
    grad, q, k, v, out, lse = (heads_first(x) for x in (grad, q, k, v, out, lse))
    for group in groups(q_offsets, k_offsets, causal, window):
        queries, keys = group.queries, group.keys
        saved = (queries.take(q), keys.take(k), keys.take(v), queries.take(out), queries.take(lse))
        plain_causal, mask = _seen(group, causal, window, q.dtype)
        part_dq, part_dk, part_dv = _attend_backward(queries.take(grad), *saved, plain_causal, mask, scale)
        queries.put(to_dq, part_dq)
        write = keys.add if window else keys.put
        write(to_dk, part_dk)
        write(to_dv, part_dv)
    return dq, dk, dv


def _attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, of long rows in runs of keys where no mask is needed."""
    # The sum over runs would round a bfloat16 gradient of q once more.
    short = min(q.shape[2], k.shape[2]) < LONG or q.dtype == torch.bfloat16
    if mask is not None or short:
        return flash_backward(grad, q, k, v, out, lse, 0.0, causal, attn_mask=mask, scale=scale)
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    for queries, keys, ordered in _runs(q.shape[2], k.shape[2], causal):
        grad_, q_, out_, lse_ = (x[:, :, queries] for x in (grad, q, out, lse))
        k_, v_ = k[:, :, keys], v[:, :, keys]
        parts = flash_backward(grad_, q_, k_, v_, out_, lse_, 0.0, ordered, scale=scale)
        for total, where, part in zip((dq, dk, dv), (queries, keys, keys), parts, strict=True):
            total[:, :, where] += part
    return dq, dk, dv


def _runs(queries: int, keys: int, causal: bool) -> Iterator[tuple[slice, slice, bool]]:
    """Runs of keys with the queries that see any of them, and whether in causal order.

    In that order a run's own queries see a part of it, and all later ones the whole: flash attention of the whole row
    would compute many of the scores that nobody sees.
    """
    for start in range(0, keys, KEYS):
        run = slice(start, min(start + KEYS, keys))
        if causal:
            yield run, run, True
        seen_whole = slice(run.stop if causal else 0, queries)
        if seen_whole.start < queries:
            yield seen_whole, run, False


def lse_dtype(q: Tensor) -> torch.dtype:
    """What the log-sum-exp of q's scores is in, on every device."""
    return torch.promote_types(q.dtype, torch.float32)


def _seen(group: Group, causal: bool, window: int, dtype: torch.dtype) -> tuple[bool, Tensor | None]:
    """Which keys the queries of a group see, as flash attention takes it: its own causal order, or a mask."""
    queries, keys = group.queries.length, group.keys.length
    if not window or (group.shift == 0 and keys <= window):
        return causal, None
    return False, _mask(queries, keys, group.shift, causal, window, dtype)


@lru_cache(maxsize=2)
def _mask(queries: int, keys: int, shift: int, causal: bool, window: int, dtype: torch.dtype) -> Tensor:
    """0 where a query sees a key and -inf elsewhere, [queries, keys]."""
    age = torch.arange(queries)[:, None] + shift - torch.arange(keys)
    unseen = (age >= window) | ((age < 0) if causal else (age <= -window))
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_(unseen, -torch.inf)
