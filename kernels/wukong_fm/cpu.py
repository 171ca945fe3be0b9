"""CPU path of Wukong's interactions: batched products that read X in place, nothing saved but X.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, y: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """P = X Z with Z = X^T Y, and W X (empty without w)."""
    z = torch.matmul(x.transpose(1, 2), y)
    return torch.bmm(x, z), x.new_empty(0) if w is None else torch.matmul(w, x)


def backward(
    grad_p: Tensor, grad_l: Tensor, x: Tensor, y: Tensor, w: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dZ = X^T dP, dX = dP Z^T + Y dZ^T + W^T dL, dY = sum of X dZ, dW = sum of dL X^T; Z is computed again.

    Autograd on the definition takes 2-3 times as long: it copies the transposed X and sums in more buffers.
    """
    batch = len(x)
    x_t = x.transpose(1, 2)
    z = torch.matmul(x_t, y)
    dz = torch.bmm(x_t, grad_p)
    dx = torch.bmm(grad_p, z.transpose(1, 2))
    dx.baddbmm_(y.expand(batch, -1, -1), dz.transpose(1, 2))
    dy = torch.bmm(x, dz).sum(0)
    if w is None:
        return dx, dy, x.new_empty(0)
    dx.baddbmm_(w.t().expand(batch, -1, -1), grad_l)
    return dx, dy, torch.bmm(grad_l, x_t).sum(0)
