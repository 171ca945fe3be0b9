"""Rotary positions of the tokens of a jagged history (Su et al. 2021, RoFormer; InterFormer, arXiv 2411.09852).

A query and a key turned by their places have a product that knows of the places only how far apart they are. Places
are counted from the newest token back. From the oldest on they would give the same attention; but so the newest token
stands at 0 in every row, and no place changes when a row loses its old end, as it does in a pyramid or by a shorter
history.

Shape letters: B rows, T tokens of all rows, H heads, E floats per head.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The slowest pair of floats turns once in 2 pi times as many places.
SLOWEST = 10_000.0


def places(offsets: Tensor, tokens: int) -> Tensor:
    """How many tokens of its row come after each token: 0 for the newest one.

    Args:
        offsets: int64 [B + 1].
        tokens: T, which is offsets[-1].

    Returns:
        int64 [T].
    """
    stop = offsets[1:].repeat_interleave(offsets.diff(), output_size=tokens)
    return stop - 1 - torch.arange(tokens, device=offsets.device)


def turns(place: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """The turn of every pair of floats at these places, exp(-i place / SLOWEST^(2 pair / E)).

    Args:
        place: int64 [T], at least 0.
        width: E, even.
        dtype: of the tokens that will be turned.

    Returns:
        complex64 [T, E / 2], complex128 for float64 tokens.
    """
    # In float64 and once per place: an angle of thousands in float32 is wrong in the fourth decimal.
    pairs = torch.arange(width // 2, dtype=torch.float64, device=place.device)
    longest = int(place.max()) + 1 if place.numel() else 0
    angle = -torch.arange(longest, device=place.device)[:, None] * SLOWEST ** (-2 * pairs / width)
    table = torch.polar(torch.ones_like(angle), angle)
    if dtype != torch.float64:
        table = table.to(torch.complex64)
    return table.index_select(0, place)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn pairs of neighbouring floats.

    Args:
        x: [T, ..., E].
        turn: complex [T, E / 2], from `turns`.

    Returns:
        Shape and dtype of x; computed in float32 at least.
    """
    real = x if x.dtype == torch.float64 else x.float()
    pairs = torch.view_as_complex(real.unflatten(-1, (-1, 2)))
    turned = pairs * turn.view(len(turn), *[1] * (x.dim() - 2), turn.shape[1])
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
