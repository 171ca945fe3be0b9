"""Cross-layer attention of the tower over the features (ours; GEM's blog names such connections, and no more).

Shape letters: B examples, n tokens of the layer, m tokens of all layers below it, d width, H heads, E = d / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class CrossLayerAttention(nn.Module):
    """X + g ⊙ (softmax(Q Kᵀ / √E) V W_o), with Q from the layer's tokens X, K and V from all that lies below.

    It follows layer l: X are that layer's outputs, below are those of layers 0 ... l - 1 one after another, the
    embeddings counting as layer 0. The gate g [d] starts at 0, so that the tower starts as plain Wukong, bit by bit;
    at that start the gate alone gets a gradient, and the projections follow with the second step.

    There is no norm: what a Wukong layer returns is normed, and embeddings must not be (it would blow up the rows of
    ids that were hardly ever trained).

    Args:
        dim: d.
        heads: H, dividing d.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads: got {heads}, allowed: a divisor of the width, {dim}")
        self.heads = heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, below: Tensor) -> Tensor:
        """Args: x [B, n, d], below [B, m, d] with at least one token. Returns: [B, n, d]."""
        q = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(below).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.gate * self.out(attended)
