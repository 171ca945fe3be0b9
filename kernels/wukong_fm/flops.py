"""FLOPs of Wukong's interactions for torch's FlopCounterMode; importing this module registers them.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.wukong_fm import op  # noqa: F401  defines the operators


@register_flop_formula(torch.ops.gem_distill.wukong_fm_lcb, get_raw=True)
def forward_flops(x: Tensor, y: Tensor, w: Tensor | None, *norm: Any, out_val: Any = None) -> int:
    """Z = XᵀY, X Z and W X: 2 B N D (2 K + L)."""
    return 2 * x.numel() * (2 * y.shape[-1] + (0 if w is None else w.shape[0]))


@register_flop_formula(torch.ops.gem_distill.wukong_fm_lcb_backward, get_raw=True)
def backward_flops(
    grad_p: Tensor,
    grad_l: Tensor,
    p: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    *norm: Any,
    out_val: Any = None,
) -> int:
    """Two products for each of the forward pass; what is computed again, Z and under a norm X Z, is not counted."""
    return 2 * forward_flops(x, y, w)
