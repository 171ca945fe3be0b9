"""Wukong layer: factorization machine block beside linear compression (arXiv 2403.02545, section 3).

Shape letters: B examples, n tokens in, d width, k rank, n_F and n_L tokens out of the two blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kernels.wukong_fm import wukong_fm


class WukongLayer(nn.Module):
    """X' = LN(concat(FMB(X), LCB(X)) + P X).

    FMB(X) = reshape(MLP(LN(flatten(X Xᵀ Y)))), LCB(X) = W_L X, and P projects the residual to n_F + n_L tokens.
    Y [n, k] is learned; with `attentive` every example adds a Y of its own to it (`ExampleProjection`).

    Args:
        tokens: n.
        dim: d.
        fm_tokens: n_F.
        linear_tokens: n_L.
        rank: k.
        attentive: Y depends on the example.
        norm: the two LN of the paper. Without them what is hardly trained yet stays small; with them the products of
            rows that are nothing but their initial values come out as large as any.
    """

    def __init__(
        self,
        tokens: int,
        dim: int,
        fm_tokens: int,
        linear_tokens: int,
        rank: int,
        attentive: bool = False,
        norm: bool = True,
    ):
        super().__init__()
        self.dim, self.fm_tokens = dim, fm_tokens
        self.tokens_out = fm_tokens + linear_tokens
        self.low_rank = nn.Parameter(torch.randn(tokens, rank) / tokens**0.5)
        # One product with X serves linear compression and residual: the rows of W_L, then those of P.
        self.compress = nn.Parameter(torch.randn(linear_tokens + self.tokens_out, tokens) / tokens**0.5)
        self.norm_pairs = nn.LayerNorm(tokens * rank) if norm else nn.Identity()
        self.mlp = nn.Sequential(
            nn.Linear(tokens * rank, fm_tokens * dim), nn.ReLU(), nn.Linear(fm_tokens * dim, fm_tokens * dim)
        )
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.of_example = ExampleProjection(tokens, dim, rank) if attentive else None

    def forward(self, x: Tensor) -> Tensor:
        """Args: x float32 [B, n, d]. Returns: [B, n_F + n_L, d]."""
        low_rank = self.low_rank if self.of_example is None else self.low_rank + self.of_example(x)
        pairs, linear = wukong_fm(x, low_rank, self.compress, **self._norm_of_pairs())
        assert linear is not None
        fm = self.mlp(pairs.flatten(1)).view(-1, self.fm_tokens, self.dim)
        compressed, residual = linear.split([self.tokens_out - self.fm_tokens, self.tokens_out], dim=1)
        return self.norm(torch.cat([fm, compressed], dim=1) + residual)

    def _norm_of_pairs(self) -> dict[str, Any]:
        """As the operator takes it, which norms the pairs where it makes them."""
        norm = self.norm_pairs
        if not isinstance(norm, nn.LayerNorm):
            return {}
        return {"norm_weight": norm.weight, "norm_bias": norm.bias, "eps": norm.eps}


class ExampleProjection(nn.Module):
    """What an example adds to the learned Y: Y_b = reshape(MLP(flatten(A X_b))), with A compressing n tokens to k.

    The paper (section 3.4, known second-hand) lets an MLP over linearly compressed tokens make Y. Ours: as many
    compressed tokens as Y has columns, a hidden layer as wide as a token, and a sum with the learned Y in place of a
    replacement, its last layer starting at 0: an attentive layer starts as exactly the plain one, and departs from it
    only as it learns to. (At that start the gradient reaches the last layer alone; the others follow with the second
    step.)

    Args:
        tokens: n.
        dim: d.
        rank: k.
    """

    def __init__(self, tokens: int, dim: int, rank: int):
        super().__init__()
        self.tokens, self.rank = tokens, rank
        self.compress = nn.Parameter(torch.randn(rank, tokens) / tokens**0.5)
        self.mlp = nn.Sequential(nn.Linear(rank * dim, dim), nn.ReLU(), nn.Linear(dim, tokens * rank))
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x [B, n, d]. Returns: [B, n, k]."""
        # Not `matmul`, which would copy x, transposed.
        compressed = torch.bmm(self.compress.expand(len(x), -1, -1), x)
        return self.mlp(compressed.flatten(1)).view(-1, self.tokens, self.rank)
