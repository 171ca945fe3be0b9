"""FLOPs of the feed-forward block for torch's FlopCounterMode; importing this module registers them.

Shape letters: T rows, D width, F hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.norm_ffn import op  # noqa: F401  defines the operators


@register_flop_formula(torch.ops.gem_distill.norm_ffn, get_raw=True)
def forward_flops(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    *others: Any,
    out_val: Any = None,
) -> int:
    """Every row times both matrices: 4 T D F, gated 6 T D F."""
    return 2 * x.shape[0] * (w1.numel() + w2.numel())


@register_flop_formula(torch.ops.gem_distill.norm_ffn_backward, get_raw=True)
def backward_flops(grad: Tensor, *others: Any, out_val: Any = None) -> int:
    """Two products for each of the forward pass; the hidden units, which are computed again, are not counted."""
    return 2 * forward_flops(*others)
