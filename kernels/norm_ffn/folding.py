"""The scale and shift of the norm folded into the first weights, and the gradients taken apart again.

With n the normed row before scale g and shift s, W1 (g * n + s) + b1 = V n + c, where V = W1 diag(g) and
c = W1 s + b1. So the norm's parameters cost nothing per row, and their gradients follow from those of V and c.

Shape letters: D width, F rows of W1.
"""

from __future__ import annotations

from torch import Tensor


def fold(norm_weight: Tensor, norm_bias: Tensor, w1: Tensor, b1: Tensor) -> tuple[Tensor, Tensor]:
    """V [F, D] and c [F] from g [D], s [D], W1 [F, D] and b1 [F]."""
    return w1 * norm_weight, b1 + w1.mv(norm_bias)


def unfold(
    d_folded: Tensor, d_shift: Tensor, norm_weight: Tensor, norm_bias: Tensor, w1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of g, s and W1 from those of V [F, D] and c [F], which is that of b1 too."""
    d_w1 = (d_folded * norm_weight).addr_(d_shift, norm_bias)
    return (d_folded * w1).sum(0), w1.t().mv(d_shift), d_w1
