"""The definition of jagged mixing, one row after another in plain PyTorch. Every fast path equals this.

Shape letters: B rows (examples), T tokens of all rows, M numbers per token, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def jagged_mix(values: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Y_t = v_t A_b for every token t of row b.

    Arguments and result as in `kernels.jagged_mix.jagged_mix`.
    """
    rows = [
        values[int(offsets[b]) : int(offsets[b + 1])] @ matrix for b, matrix in enumerate(matrices.unbind())
    ]
    return torch.cat(rows) if rows else values @ matrices.sum(0)
