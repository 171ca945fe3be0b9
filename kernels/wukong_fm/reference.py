"""The definition of Wukong's interactions in plain PyTorch. Every fast path equals this.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wukong_fm(x: Tensor, y: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """X (X^T Y) and W X of every example; Y is one for all of them, or the example's own.

    X X^T would hold all pairwise products of the embeddings; with X^T Y first, it is never formed.
    Arguments and result as in `kernels.wukong_fm.wukong_fm`.
    """
    of_example = "nk" if y.dim() == 2 else "bnk"
    interactions = torch.einsum("bnd,bdk->bnk", x, torch.einsum(f"bnd,{of_example}->bdk", x, y))
    compressed = None if w is None else torch.einsum("ln,bnd->bld", w, x)
    return interactions, compressed
