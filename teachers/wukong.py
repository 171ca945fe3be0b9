"""Wukong layer: factorization machine block beside linear compression (arXiv 2403.02545, section 3).

Shape letters: B examples, n tokens in, d width, k rank, n_F and n_L tokens out of the two blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.wukong_fm import wukong_fm


class WukongLayer(nn.Module):
    """X' = LN(concat(FMB(X), LCB(X)) + P X).

    FMB(X) = reshape(MLP(LN(flatten(X Xᵀ Y)))), LCB(X) = W_L X, and P projects the residual to n_F + n_L tokens.

    Args:
        tokens: n.
        dim: d.
        fm_tokens: n_F.
        linear_tokens: n_L.
        rank: k.
    """

    def __init__(self, tokens: int, dim: int, fm_tokens: int, linear_tokens: int, rank: int):
        super().__init__()
        self.dim, self.fm_tokens = dim, fm_tokens
        self.tokens_out = fm_tokens + linear_tokens
        self.low_rank = nn.Parameter(torch.randn(tokens, rank) / tokens**0.5)
        # One product with X serves linear compression and residual: the rows of W_L, then those of P.
        self.compress = nn.Parameter(torch.randn(linear_tokens + self.tokens_out, tokens) / tokens**0.5)
        self.norm_pairs = nn.LayerNorm(tokens * rank)
        self.mlp = nn.Sequential(
            nn.Linear(tokens * rank, fm_tokens * dim), nn.ReLU(), nn.Linear(fm_tokens * dim, fm_tokens * dim)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x float32 [B, n, d]. Returns: [B, n_F + n_L, d]."""
        pairs, linear = wukong_fm(x, self.low_rank, self.compress)
        assert linear is not None
        fm = self.mlp(self.norm_pairs(pairs.flatten(1))).view(-1, self.fm_tokens, self.dim)
        compressed, residual = linear.split([self.tokens_out - self.fm_tokens, self.tokens_out], dim=1)
        return self.norm(torch.cat([fm, compressed], dim=1) + residual)
