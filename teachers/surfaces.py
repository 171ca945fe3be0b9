"""Many surfaces, one model: what is a surface's own between the towers and the heads.

GEM learns from every surface and optimises each surface's own objectives (Meta engineering blog, 2025-11-10, which
gives no equations); the forms here are ours, after FiLM (arXiv 1709.07871) and the mixtures MMoE (KDD 2018) and PLE
(RecSys 2020).

Shape letters: B examples, D surfaces, E experts, k tasks, W width of the input, H width of the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class SurfaceNorm(nn.Module):
    """y = x * (1 + scale[surface]) + shift[surface], the identity at the start (FiLM by surface).

    A surface absent from a batch gets a gradient of exactly zero. Adam still moves its rows by what is left of their
    momentum, and not at all before the surface was first seen.

    Args:
        domains: D.
        width: W.
    """

    def __init__(self, domains: int, width: int):
        super().__init__()
        # Around 1, so that weight decay pulls towards the identity and not towards nothing.
        self.scale = nn.Embedding(domains, width)
        self.shift = nn.Embedding(domains, width)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """Scale and shift every row as its surface does.

        Args:
            x: float [B, W].
            domain: int64 [B], index of the surface.

        Returns:
            float [B, W].
        """
        return torch.addcmul(x + self.shift(domain), x, self.scale(domain))


class SurfaceExperts(nn.Module):
    """E expert networks of the trunk's shape, mixed for every (surface, task) by a softmax gate.

    out[b, t] = sum_e softmax_e(table[surface_b, t, e] + (gate x_b)[t, e]) * expert_e(x_b)

    Both parts of the gate start at zero: all experts count alike, the differences between their initial values tell
    them apart. The gate of a surface absent from a batch gets a gradient of exactly zero; the experts are everybody's.

    Args:
        domains: D.
        tasks: k.
        width: W.
        widths: of each expert's layers, each followed by ReLU and dropout; the last is H.
        experts: E, at least 1.
        dropout: share of an expert's units left out in training.
    """

    def __init__(
        self, domains: int, tasks: int, width: int, widths: Sequence[int], experts: int, dropout: float = 0.0
    ):
        super().__init__()
        assert widths and experts >= 1, f"widths {list(widths)}, experts {experts}"
        self.tasks, self.experts = tasks, experts
        layers = list(pairwise([width, *widths]))
        self.weights = nn.ParameterList(torch.empty(experts, narrow, wide) for narrow, wide in layers)
        self.biases = nn.ParameterList(torch.empty(experts, 1, wide) for _, wide in layers)
        for (narrow, _), weight, bias in zip(layers, self.weights, self.biases, strict=True):
            bound = 1 / math.sqrt(narrow)  # as nn.Linear
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)
        self.dropout = nn.Dropout(dropout)
        self.table = nn.Embedding(domains, tasks * experts)
        self.gate = nn.Linear(width, tasks * experts, bias=False)
        nn.init.zeros_(self.table.weight)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """What the experts make of every row, mixed for each task.

        Args:
            x: float [B, W].
            domain: int64 [B], index of the surface.

        Returns:
            float [B, k, H].
        """
        return self.shares(x, domain) @ self._opinions(x).transpose(0, 1)

    def shares(self, x: Tensor, domain: Tensor) -> Tensor:
        """The gate: how much each expert counts, [B, k, E], each (row, task) summing to 1."""
        logits = (self.gate(x) + self.table(domain)).unflatten(1, (self.tasks, self.experts))
        return functional.softmax(logits, dim=2)

    def _opinions(self, x: Tensor) -> Tensor:
        """Every expert on every row, [E, B, H]: one batched product per layer."""
        hidden = x.expand(self.experts, *x.shape)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = self.dropout(functional.relu(torch.baddbmm(bias, hidden, weight)))
        return hidden
