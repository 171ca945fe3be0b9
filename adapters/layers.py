"""Layers between widths, as all small networks of the channels have them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def relu_layers(widths: Sequence[int]) -> list[nn.Module]:
    """Linear layers between these widths, each under a ReLU but the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]
