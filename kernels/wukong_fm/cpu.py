"""CPU path of Wukong's interactions: batched products that read X in place, nothing saved but X.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, y: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """P = X Z with Z = X^T Y, and W X (empty without w)."""
    z = torch.bmm(x.transpose(1, 2), _each(y, x))
    return torch.bmm(x, z), x.new_empty(0) if w is None else torch.bmm(_each(w, x), x)


def backward(
    grad_p: Tensor, grad_l: Tensor, x: Tensor, y: Tensor, w: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dZ = X^T dP, dX = dP Z^T + Y dZ^T + W^T dL, dY = X dZ, dW = sum of dL X^T; Z is computed again.

    dY is summed over the examples when one Y serves them all.
    """
    # Products with an expanded gradient, such as a sum's, are many times slower.
    grad_p, grad_l = grad_p.contiguous(), grad_l.contiguous()
    x_t = x.transpose(1, 2)
    z = torch.bmm(x_t, _each(y, x))
    dz = torch.bmm(x_t, grad_p)
    dx = torch.bmm(grad_p, z.transpose(1, 2)).baddbmm_(_each(y, x), dz.transpose(1, 2))
    dy = torch.bmm(x, dz)
    dy = dy.sum(0) if y.dim() == 2 else dy
    if w is None:
        return dx, dy, x.new_empty(0)
    dx.baddbmm_(_each(w.t(), x), grad_l)
    return dx, dy, torch.bmm(grad_l, x_t).sum(0)


def _each(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix for every example: its own [B, ...], or the same for all, not copied.

    `matmul` would copy x, transposed, instead.
    """
    return matrix.expand(len(x), -1, -1)
