"""FLOPs of jagged attention for torch's FlopCounterMode; importing this module registers them.

Real lengths, and only the scores that are needed: a causal row of L tokens has L (L + 1) / 2 of them, not L². The
backward pass counts its four products; the scores it computes a second time are work of the kernel, not of the model.

Shape letters: B rows, Tq and Tk queries and keys of all rows, H heads, E floats per head, W window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.jagged_attention import operators  # noqa: F401  defines the operators


def scores(q_offsets: Tensor, k_offsets: Tensor, causal: bool, window: int) -> int:
    """Pairs of a query and a key that attention looks at, of one head.

    Args:
        q_offsets, k_offsets: int64 [B + 1]; equal ones for causal and windowed attention.
        causal: a query sees the keys up to its own place only.
        window: W, a query sees keys closer than this only; 0 for all.
    """
    queries, keys = q_offsets.diff(), k_offsets.diff()
    if not (causal or window):
        return int((queries * keys).sum())
    # Looking back: the first W queries of a row see 1, 2, ... W keys, the others W.
    reach = keys.clamp_max(window) if window else keys
    back = int((reach * (reach + 1) // 2 + (keys - reach) * reach).sum())
    return back if causal else 2 * back - int(keys.sum())


@register_flop_formula(torch.ops.gem_distill.jagged_softmax_attention, get_raw=True)
def softmax_flops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
    out_val: Any = None,
) -> int:
    """Two products a score, q . k and p v, of 2 E each: 4 E H scores."""
    return 4 * q.shape[1] * q.shape[2] * scores(q_offsets, k_offsets, causal, window)


@register_flop_formula(torch.ops.gem_distill.jagged_softmax_attention_backward, get_raw=True)
def softmax_backward_flops(
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
    out_val: Any = None,
) -> int:
    """Four products a score: the gradients of p, v, q and k."""
    return 2 * softmax_flops(q, k, v, q_offsets, k_offsets, causal, window, scale)


@register_flop_formula(torch.ops.gem_distill.jagged_activation_attention, get_raw=True)
def activation_flops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
    out_val: Any = None,
) -> int:
    """Two products a score; the activation itself is not counted, as the exponential of a softmax is not."""
    return softmax_flops(q, k, v, q_offsets, k_offsets, causal, window, scale)


@register_flop_formula(torch.ops.gem_distill.jagged_activation_attention_backward, get_raw=True)
def activation_backward_flops(
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
    out_val: Any = None,
) -> int:
    """Four products a score: the gradients of p, v, q and k."""
    return 2 * softmax_flops(q, k, v, q_offsets, k_offsets, causal, window, scale)
