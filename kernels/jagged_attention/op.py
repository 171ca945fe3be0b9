"""Jagged attention as a registered operator: one node for autograd and torch.compile, closed backward.

Shape letters: B rows (examples), Tq and Tk queries and keys of all rows, S seeds, H heads, E floats per head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.jagged_attention import cpu

ACTIVATIONS = ("softmax",)
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


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
    """Attention within each row of a jagged batch.

    Self-attention: q, k, v and both offsets of the same rows. Cross-attention: queries and keys of different
    lengths. Pooling by seeds (Set Transformer's PMA): `q_offsets=None`, the same S queries for every row. A window
    makes self-attention cost rows' lengths times the window. Under torch.autocast the inputs are cast, as those of
    torch's own attention are.

    Args:
        q: float32, float64 or bfloat16 [Tq, H, E]; with `q_offsets=None` seeds [S, H, E].
        k, v: [Tk, H, E], dtype of q.
        q_offsets: int64 [B + 1]; queries of row b lie at q_offsets[b]:q_offsets[b + 1]. None for seeds.
        k_offsets: int64 [B + 1], the same for keys and values.
        causal: a query sees the keys up to its own place only; rows must have as many queries as keys.
        window: the query at place i sees the keys j with |i - j| < window only, of these the causal ones; rows must
            have as many queries as keys. 0 for all.
        activation: `softmax`.
        scale: of the scores; 1 / sqrt(E) unless given.

    Returns:
        [Tq, H, E], or [B, S, H, E] for seeds. A row without keys gives zeros, and sends zero gradient.

    Raises:
        ValueError: an unknown activation, or shapes, dtypes, devices or offsets that do not fit.

    Source: Vaswani et al. 2017 (3.2.1); backward from the log-sum-exp as in FlashAttention-2 (Dao 2023, 3.1).
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got '{activation}', allowed: {', '.join(ACTIVATIONS)}")
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (_autocast(x) for x in (q, k, v))
    _check(q, k, v, k_offsets, window)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if q_offsets is None:
        _refuse_order(causal, window, "seeds have no place among the keys")
        return _pool(q, k, v, k_offsets, scale)
    if q_offsets.shape != k_offsets.shape:
        raise ValueError(
            f"q_offsets: got shape {tuple(q_offsets.shape)}, allowed: k_offsets' {tuple(k_offsets.shape)}"
        )
    out, _ = softmax_attention(q, k, v, q_offsets, k_offsets, causal, window, scale)
    return out


def _autocast(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype("cpu"))


def _pool(seeds: Tensor, k: Tensor, v: Tensor, k_offsets: Tensor, scale: float) -> Tensor:
    rows = k_offsets.numel() - 1
    q_offsets = torch.arange(rows + 1, device=k_offsets.device) * len(seeds)
    q = seeds.expand(rows, *seeds.shape).flatten(0, 1)
    out, _ = softmax_attention(q, k, v, q_offsets, k_offsets, False, 0, scale)
    return out.unflatten(0, (rows, len(seeds)))


def _check(q: Tensor, k: Tensor, v: Tensor, k_offsets: Tensor, window: int) -> None:
    if q.dim() != 3 or k.dim() != 3 or q.shape[1:] != k.shape[1:] or k.shape != v.shape:
        raise ValueError(
            f"q, k, v: got shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, "
            "allowed: [Tq, H, E], [Tk, H, E], [Tk, H, E]"
        )
    if q.dtype not in DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        raise ValueError(
            f"q, k, v: got {q.dtype}, {k.dtype}, {v.dtype}, allowed: one of float32, float64, bfloat16 for all three"
        )
    if k_offsets.dim() != 1 or k_offsets.numel() == 0:
        raise ValueError(f"k_offsets: got shape {tuple(k_offsets.shape)}, allowed: [B + 1]")
    if q.device.type != "cpu":
        raise ValueError(f"q: got device '{q.device}', allowed: 'cpu' (this operator has no GPU kernel yet)")
    if window < 0:
        raise ValueError(f"window: got {window}, allowed: 0 (all keys) or more")


def _refuse_order(causal: bool, window: int, why: str) -> None:
    if causal:
        raise ValueError(f"causal: got True, allowed: False, because {why}")
    if window:
        raise ValueError(f"window: got {window}, allowed: 0, because {why}")


def _check_offsets(name: str, offsets: Tensor, tokens: int) -> None:
    if offsets.dtype != torch.int64:
        raise ValueError(f"{name}: got {offsets.dtype}, allowed: int64")
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != tokens or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"{name}: got {first} ... {last}, allowed: ascending from 0 to the number of tokens, {tokens}"
        )


@torch.library.custom_op("gem_distill::jagged_softmax_attention", mutates_args=(), device_types="cpu")
def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    _check_offsets("q_offsets", q_offsets, len(q))
    _check_offsets("k_offsets", k_offsets, len(k))
    if (causal or window) and not torch.equal(q_offsets, k_offsets):
        _refuse_order(causal, window, "q_offsets are unlike k_offsets: this is no self-attention")
    return cpu.forward(q, k, v, q_offsets, k_offsets, causal, window, scale)


@softmax_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=cpu.lse_dtype(q))


@torch.library.custom_op(
    "gem_distill::jagged_softmax_attention_backward", mutates_args=(), device_types="cpu"
)
def softmax_attention_backward(
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
    return cpu.backward(grad, q, k, v, out, lse, q_offsets, k_offsets, causal, window, scale)


@softmax_attention_backward.register_fake
def _(
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
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, q_offsets, k_offsets, ctx.causal, ctx.window, ctx.scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse, q_offsets, k_offsets)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv = softmax_attention_backward(grad, *ctx.saved_tensors, ctx.causal, ctx.window, ctx.scale)
    return dq, dk, dv, None, None, None, None, None


softmax_attention.register_autograd(_backward, setup_context=_save)
