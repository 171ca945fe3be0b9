"""Wukong's interactions as a registered operator: one node for autograd and torch.compile, closed backward.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.wukong_fm import cpu

DTYPES = (torch.float32, torch.float64)


def wukong_fm(x: Tensor, y: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Factorization machine of low rank, X (X^T Y), and optionally the linear compression block, W X.

    Args:
        x: float32 or float64 [B, N, D], the embeddings of each example.
        y: [N, K], the projection of the N columns of X X^T to K; [B, N, K] for one of each example's own.
        w: [L, N], weights of the linear compression; None leaves it out.

    Returns:
        Interactions [B, N, K], and compressed embeddings [B, L, D] (None without w).

    Under autocast all are computed and returned in float32, whatever narrower dtypes come in: the products are a
    small part of a layer, and squares of embeddings are where bfloat16 loses most.

    Raises:
        ValueError: shapes, dtypes or a device that do not fit.

    Source: Zhang et al. 2024, Wukong (arXiv:2403.02545), optimised FM and LCB; backward: ours.
    """
    _check(x, y, w)
    interactions, compressed = fm_lcb(x, y, w)
    return interactions, None if w is None else compressed


def _check(x: Tensor, y: Tensor, w: Tensor | None) -> None:
    if x.dim() != 3 or y.shape[:-1] not in (x.shape[1:2], x.shape[:2]):
        raise ValueError(
            f"x, y: got shapes {tuple(x.shape)}, {tuple(y.shape)}, allowed: [B, N, D], [N, K] or [B, N, K]"
        )
    if w is not None and (w.dim() != 2 or w.shape[1] != x.shape[1]):
        raise ValueError(f"w: got shape {tuple(w.shape)}, allowed: [L, {x.shape[1]}]")
    dtypes = {_dtype(t) for t in (x, y, w) if t is not None}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        raise ValueError(
            f"x, y, w: got {', '.join(sorted(map(str, dtypes)))}, allowed: one of float32, float64 for all"
        )
    if x.device.type != "cpu":
        raise ValueError(f"x: got device '{x.device}', allowed: 'cpu' (this operator has no GPU kernel yet)")


def _dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which the operator gets a tensor."""
    narrow = tensor.dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if narrow and torch.is_autocast_enabled("cpu") else tensor.dtype


@torch.library.custom_op("gem_distill::wukong_fm_lcb", mutates_args=(), device_types="cpu")
def fm_lcb(x: Tensor, y: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    return cpu.forward(x, y, w)


@fm_lcb.register_fake
def _(x: Tensor, y: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    compressed = x.new_empty(0) if w is None else x.new_empty(x.shape[0], w.shape[0], x.shape[2])
    return x.new_empty(x.shape[0], x.shape[1], y.shape[-1]), compressed


@torch.library.custom_op("gem_distill::wukong_fm_lcb_backward", mutates_args=(), device_types="cpu")
def fm_lcb_backward(
    grad_p: Tensor, grad_l: Tensor, x: Tensor, y: Tensor, w: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu.backward(grad_p, grad_l, x, y, w)


@fm_lcb_backward.register_fake
def _(
    grad_p: Tensor, grad_l: Tensor, x: Tensor, y: Tensor, w: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(y), x.new_empty(0) if w is None else torch.empty_like(w)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_p: Tensor, grad_l: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    x, y, w = ctx.saved_tensors
    dx, dy, dw = fm_lcb_backward(grad_p, grad_l, x, y, w)
    return dx, dy, None if w is None else dw


fm_lcb.register_autograd(_backward, setup_context=_save)
# Without these the products inside would be autocast, one by one, and return another dtype than announced.
fm_lcb.register_autocast("cpu", torch.float32)
fm_lcb_backward.register_autocast("cpu", torch.float32)
