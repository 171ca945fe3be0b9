"""CPU path of Wukong's interactions: batched products that read X in place, nothing saved but X.

A norm keeps its input too, as it does by itself: to compute P again would cost about a tenth of both passes.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(
    x: Tensor, y: Tensor, w: Tensor | None, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """P = X Z with Z = X^T Y, normed or not, and W X (empty without w); P before its norm (empty without)."""
    p = torch.bmm(x, torch.bmm(x.transpose(1, 2), _each(y, x)))
    compressed = x.new_empty(0) if w is None else torch.bmm(_each(w, x), x)
    if norm_weight is None:
        return p, compressed, x.new_empty(0)
    flat = p.flatten(1)
    normed, _, _ = torch.native_layer_norm(flat, flat.shape[1:], norm_weight, norm_bias, eps)
    return normed.view_as(p), compressed, p


def backward(
    grad_p: Tensor,
    grad_l: Tensor,
    p: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dZ = X^T dP, dX = dP Z^T + Y dZ^T + W^T dL, dY = X dZ, dW = sum of dL X^T; Z is computed again.

    P is that before its norm, read with a norm only. dY is summed over the examples when one Y serves them all. Last
    come the gradients of the norm's weight and bias; empty is the gradient of what is None.
    """
    # Products with an expanded gradient, such as a sum's, are many times slower.
    grad_p, grad_l = grad_p.contiguous(), grad_l.contiguous()
    x_t = x.transpose(1, 2)
    z = torch.bmm(x_t, _each(y, x))
    dw, d_norm_weight, d_norm_bias = (x.new_empty(0) for _ in range(3))
    if norm_weight is not None:
        grad_p, d_norm_weight, d_norm_bias = _norm_backward(grad_p, p, norm_weight, norm_bias, eps)
    dz = torch.bmm(x_t, grad_p)
    dx = torch.bmm(grad_p, z.transpose(1, 2)).baddbmm_(_each(y, x), dz.transpose(1, 2))
    dy = torch.bmm(x, dz)
    dy = dy.sum(0) if y.dim() == 2 else dy
    if w is not None:
        dx.baddbmm_(_each(w.t(), x), grad_l)
        dw = torch.bmm(grad_l, x_t).sum(0)
    return dx, dy, dw, d_norm_weight, d_norm_bias


def _norm_backward(
    grad: Tensor, p: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of P [B, N, K], of the norm's weight and of its bias."""
    flat = p.flatten(1)
    _, mean, rstd = torch.native_layer_norm(flat, flat.shape[1:], None, None, eps)
    dp, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
        grad.flatten(1), flat, flat.shape[1:], mean, rstd, weight, bias, [True, True, True]
    )
    return dp.view_as(p), d_weight, d_bias


def _each(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix for every example: its own [B, ...], or the same for all, not copied.

    `matmul` would copy x, transposed, instead.
    """
    return matrix.expand(len(x), -1, -1)
