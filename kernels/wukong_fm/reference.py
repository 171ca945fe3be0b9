"""The definition of Wukong's interactions in plain PyTorch. Every fast path equals this.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm


def wukong_fm(
    x: Tensor,
    y: Tensor,
    w: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None]:
    """X (X^T Y), normed or not, and W X of every example; Y is one for all of them, or the example's own.

    X X^T would hold all pairwise products of the embeddings; with X^T Y first, it is never formed. The norm is over all
    N K numbers of an example.
    Arguments and result as in `kernels.wukong_fm.wukong_fm`.
    """
    of_example = "nk" if y.dim() == 2 else "bnk"
    interactions = torch.einsum("bnd,bdk->bnk", x, torch.einsum(f"bnd,{of_example}->bdk", x, y))
    if norm_weight is not None:
        flat = interactions.flatten(1)
        interactions = layer_norm(flat, flat.shape[1:], norm_weight, norm_bias, eps).view_as(interactions)
    compressed = None if w is None else torch.einsum("ln,bnd->bld", w, x)
    return interactions, compressed
