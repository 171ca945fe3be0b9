"""Modality tower: content vectors computed elsewhere become tokens of the model [ours; the engineering post only says
that GEM takes in text, image, audio and video].

For modality m with vectors x, width M and token width d:

    token = W2 relu(W1 x + b1) + b2     where the item has a vector
          = e_m, learned                where it has none

The same tower serves the item at hand and the items of the history.

Shape letters: N vectors, M width of a modality, d width of a token, B examples, n modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distill.batch import ContentVectors


class ModalityTower(nn.Module):
    """See the module's text.

    Args:
        widths: M by modality; their order is that of the tokens.
        dim: d.
    """

    def __init__(self, widths: Mapping[str, int], dim: int):
        super().__init__()
        assert widths, "a tower without a modality"
        self.names = tuple(widths)
        # A list: the names of modalities are the user's, and not every name can be an attribute.
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim)) for width in widths.values()
        )
        self.missing = nn.Parameter(torch.empty(len(widths), dim))
        nn.init.normal_(self.missing, std=0.1)

    def forward(self, vectors: Tensor, known: Tensor, name: str) -> Tensor:
        """Tokens of one modality.

        Args:
            vectors: float [N, M]; any finite numbers where `known` is False.
            known: bool [N].
            name: the modality.

        Returns:
            [N, d].
        """
        place = self.names.index(name)
        return torch.where(known.unsqueeze(1), self.towers[place](vectors), self.missing[place])

    def item_tokens(self, content: Mapping[str, ContentVectors]) -> Tensor:
        """Tokens of the examples' own items, [B, n, d]."""
        tokens = [self(content[name].item, content[name].item_known, name) for name in self.names]
        return torch.stack(tokens, dim=1)
