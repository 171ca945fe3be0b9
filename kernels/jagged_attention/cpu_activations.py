"""CPU path of jagged attention without a softmax: blocks of equal shape together, batched matrix products.

An activation takes every score by itself, so that queries can be taken in any runs: as many as keep their scores in
the cache, with the keys that one of them sees. Weights of unseen keys are 0, and so are their derivatives.

Shape letters: Tq and Tk queries and keys of all rows, H heads, E floats per head, and of a group of blocks: n of them
times H heads, M queries of a run and N keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from kernels.jagged_attention.blocks import Group, Part, groups, heads_first, unwritten

# Scores computed together: 256 KiB in float32, so that what is done to them finds them in the cache.
SCORES_TOGETHER = 1 << 16
# Queries of a run of a long row: below this, matrix products pay more for calling than for scores.
LEAST_QUERIES = 32


def _relu2(scores: Tensor) -> Tensor:
    return functional.relu(scores).square_()


def _relu2_backward(grad: Tensor, scores: Tensor) -> Tensor:
    return functional.relu(scores).mul_(grad).mul_(2)


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "relu2": _relu2,
}
# From the gradient of the weights and the scores to the gradient of the scores.
DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": torch.ops.aten.silu_backward,
    "gelu": torch.ops.aten.gelu_backward,
    "relu2": _relu2_backward,
}


@dataclass(frozen=True)
class Run:
    """Queries of some blocks of a group that are taken together.

    Attributes:
        blocks, queries, keys: slices of the n * H blocks and heads, of a block's queries, and of its keys.
        unseen: bool [M, last keys], True where a query does not see a key; None where all see all.
    """

    blocks: slice
    queries: slice
    keys: slice
    unseen: Tensor | None


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> Tensor:
    """Attention; arguments as of `cpu.forward`, activation one of VALUES.

    Returns:
        [Tq, H, E], zero where a row has no key.
    """
    out = unwritten(q, q_offsets, k_offsets)
    for group in groups(q_offsets, k_offsets, causal, window):
        queries, keys, values = _side(group.queries, q) * scale, _side(group.keys, k), _side(group.keys, v)
        part = torch.empty_like(queries)
        for run in runs(group, q.shape[1], causal, window):
            scores = torch.bmm(queries[run.blocks, run.queries], keys[run.blocks, run.keys].mT)
            weights = _hide(VALUES[activation](scores), run)
            part[run.blocks, run.queries] = torch.bmm(weights, values[run.blocks, run.keys])
        group.queries.put(heads_first(out), part.unflatten(0, (-1, q.shape[1])))
    return _per_key(out, q_offsets, k_offsets) if activation == "silu" else out


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of the output; the scores are computed again."""
    if activation == "silu":
        grad = _per_key(grad, q_offsets, k_offsets)
    dq = unwritten(q, q_offsets, k_offsets)
    dk, dv = (x.new_zeros(x.shape) if window else unwritten(x, q_offsets, k_offsets) for x in (k, v))
    for group in groups(q_offsets, k_offsets, causal, window):
        sides = (
            _side(group.queries, grad),
            _side(group.queries, q),
            _side(group.keys, k),
            _side(group.keys, v),
        )
        parts = _group_backward(*sides, list(runs(group, q.shape[1], causal, window)), activation, scale)
        part_dq, part_dk, part_dv = (x.unflatten(0, (-1, q.shape[1])) for x in parts)
        group.queries.put(heads_first(dq), part_dq)
        write = group.keys.add if window else group.keys.put
        write(heads_first(dk), part_dk)
        write(heads_first(dv), part_dv)
    return dq, dk, dv


def _group_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, steps: list[Run], activation: str, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients [n * H, ...] of one group's q, k and v; those of keys are summed over runs in float32 or better."""
    q = q * scale
    dq = torch.empty_like(q)
    exact = torch.promote_types(k.dtype, torch.float32)
    dk, dv = torch.zeros_like(k, dtype=exact), torch.zeros_like(v, dtype=exact)
    for run in steps:
        at_queries, at_keys = (run.blocks, run.queries), (run.blocks, run.keys)
        scores = torch.bmm(q[at_queries], k[at_keys].mT)
        weights = _hide(VALUES[activation](scores), run)
        dv[at_keys] += torch.bmm(weights.mT, grad[at_queries])
        d_scores = _hide(DERIVATIVES[activation](torch.bmm(grad[at_queries], v[at_keys].mT), scores), run)
        dk[at_keys] += torch.bmm(d_scores.mT, q[at_queries])
        dq[at_queries] = torch.bmm(d_scores, k[at_keys])
    return dq.mul_(scale), dk.to(k.dtype), dv.to(v.dtype)


def runs(group: Group, heads: int, causal: bool, window: int) -> Iterator[Run]:
    """All queries of a group, so few together that their scores stay bounded."""
    queries, keys, blocks = group.queries.length, group.keys.length, group.queries.blocks * heads
    step = min(queries, max(LEAST_QUERIES, SCORES_TOGETHER // keys))
    together = max(1, SCORES_TOGETHER // (step * keys))
    for first in range(0, queries, step):
        stop = min(first + step, queries)
        end = min(keys, group.shift + stop) if causal else keys
        unseen = None
        if window:
            unseen = _unseen(stop - first, end, group.shift + first, causal, window)
        elif causal:
            unseen = _unseen(stop - first, end - first, 0, causal, window)
        for block in range(0, blocks, together):
            yield Run(slice(block, block + together), slice(first, stop), slice(end), unseen)


@lru_cache(maxsize=2)
def _unseen(queries: int, keys: int, shift: int, causal: bool, window: int) -> Tensor:
    """True where a query does not see a key, [queries, keys]; query 0 has the place of key `shift`."""
    age = torch.arange(queries)[:, None] + shift - torch.arange(keys)
    unseen = torch.zeros_like(age, dtype=torch.bool)
    if window:
        unseen |= age.abs() >= window
    if causal:
        unseen |= age < 0
    return unseen


def _hide(scores: Tensor, run: Run) -> Tensor:
    """scores [..., M, N] with 0 in the place of unseen ones, which are written over."""
    if run.unseen is not None:
        scores[..., scores.shape[-1] - run.unseen.shape[-1] :].masked_fill_(run.unseen, 0.0)
    return scores


def _side(part: Part, x: Tensor) -> Tensor:
    """The group's tokens of x [T, H, E], every block and head one matrix: [n * H, length, E]."""
    return part.take(heads_first(x)).flatten(0, 1)


def _per_key(x: Tensor, q_offsets: Tensor, k_offsets: Tensor) -> Tensor:
    """x [Tq, H, E] divided by the number of keys of the query's row; rows without keys are left."""
    keys = k_offsets.diff().clamp_min(1).repeat_interleave(q_offsets.diff(), output_size=len(x))
    return (x / keys.to(torch.promote_types(x.dtype, torch.float32))[:, None, None]).to(x.dtype)
