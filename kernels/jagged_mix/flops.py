"""FLOPs of jagged mixing for torch's FlopCounterMode; importing this module registers them.

Shape letters: B rows (examples), T tokens of all rows, M numbers per token, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.jagged_mix import op  # noqa: F401  defines the operators


@register_flop_formula(torch.ops.gem_distill.jagged_mix, get_raw=True)
def forward_flops(values: Tensor, matrices: Tensor, offsets: Tensor, out_val: Any = None) -> int:
    """Every token times the matrix of its row: 2 T M D."""
    return 2 * values.numel() * matrices.shape[2]


@register_flop_formula(torch.ops.gem_distill.jagged_mix_backward, get_raw=True)
def backward_flops(
    grad: Tensor, values: Tensor, matrices: Tensor, offsets: Tensor, out_val: Any = None
) -> int:
    """Two products, the gradients of the tokens and of the matrices."""
    return 2 * forward_flops(values, matrices, offsets)
