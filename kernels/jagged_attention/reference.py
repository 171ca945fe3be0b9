"""The definition of jagged attention, one row after another in plain PyTorch. Every fast path equals this.

Shape letters: B rows (examples), Tq and Tk queries and keys of all rows, S seeds, H heads, E floats per head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def jagged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor | None,
    k_offsets: Tensor,
    *,
    causal: bool = False,
    window: int = 0,
    activation: str = "softmax",
    scale: float | None = None,
) -> Tensor:
    """O_i = sum over the keys j that i sees of phi(scale * q_i . k_j) v_j; zero where there is no key.

    i sees the keys of its row; of these, with a window, those with |i - j| < window, and causal, those with j <= i.

    Arguments and result as in `kernels.jagged_attention.jagged_attention`.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows = []
    for b in range(len(k_offsets) - 1):
        keys = slice(int(k_offsets[b]), int(k_offsets[b + 1]))
        queries = slice(None) if q_offsets is None else slice(int(q_offsets[b]), int(q_offsets[b + 1]))
        rows.append(attend(q[queries], k[keys], v[keys], causal, window, activation, scale))
    if q_offsets is None:
        return torch.stack(rows) if rows else q.new_zeros(0, *q.shape)
    return torch.cat(rows) if rows else q.clone()


def attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int, activation: str, scale: float
) -> Tensor:
    """One row: q [Lq, H, E], k and v [Lk, H, E] to [Lq, H, E]."""
    if len(k) == 0:
        return q.masked_fill(torch.ones_like(q, dtype=torch.bool), 0.0)
    scores = torch.einsum("ihe,jhe->hij", q, k) * scale
    age = torch.arange(len(q), device=q.device)[:, None] - torch.arange(len(k), device=q.device)
    unseen = torch.zeros_like(age, dtype=torch.bool)
    if window:
        unseen |= age.abs() >= window
    if causal:
        unseen |= age < 0
    return torch.einsum("hij,jhe->ihe", phi(scores, unseen, activation), v)


def phi(scores: Tensor, unseen: Tensor, activation: str) -> Tensor:
    """Weights [H, Lq, Lk] of the values, 0 where unseen.

    softmax over the keys; SiLU(s) / Lk, by all keys of the row, seen or not; GELU(s), the exact one; ReLU(s)².
    """
    if activation == "softmax":
        return scores.masked_fill(unseen, -torch.inf).softmax(-1)
    if activation == "silu":
        weights = functional.silu(scores) / scores.shape[-1]
    elif activation == "gelu":
        weights = functional.gelu(scores)
    else:
        assert activation == "relu2", activation
        weights = functional.relu(scores).square()
    return weights.masked_fill(unseen, 0.0)
