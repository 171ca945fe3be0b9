"""Work list of the GPU kernels: which tokens of which row a program takes, made on the device without a look at it.

The host knows the numbers of tokens and rows only. They bound the number of tiles, so that the launch needs no
transfer; a tile too many says of itself that it is none.

Shape letters: B rows, T tokens of the tiled side, N tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What a tile is: its first place within the row, and for the tiled side and the other one where the row's tokens
# begin and how many they are.
FIELDS = 5


def tiles(
    offsets: Tensor, tokens: int, others: Tensor, other_tokens: int, block: int, last_first: bool
) -> Tensor:
    """Tiles of at most `block` tokens that together hold every token once, the most work first.

    Offsets are trusted to ascend, not to be in range: no tile reaches over the end of the tokens, and tokens that no
    row holds make one more row, which meets nothing on the other side.

    Args:
        offsets, tokens: int64 [B + 1] and T, of the side that is tiled.
        others, other_tokens: the same of the side that each tile walks along.
        block: tokens of a tile.
        last_first: a row's last tile has the most work, as those of queries have under a causal order.

    Returns:
        int64 [N, FIELDS] with N = ceil(T / block) + B + 1; a first place outside the row marks a tile that is none.
    """
    begins, lengths = _rows(offsets, tokens, close=True)
    other_begins, other_lengths = _rows(others, other_tokens, close=False)
    order = other_lengths.argsort(descending=True, stable=True)
    rows = torch.stack([begins, lengths, other_begins, other_lengths], dim=1).index_select(0, order)
    counts = (rows[:, 1] + (block - 1)) // block
    ends = counts.cumsum(0)
    tile = torch.arange(-(-tokens // block) + len(counts), device=offsets.device)
    # Tiles beyond the last one fall to the last row, whose end they lie behind.
    row = torch.searchsorted(ends, tile, right=True).clamp_max(len(counts) - 1)
    place = tile - (ends - counts).index_select(0, row)
    if last_first:
        place = counts.index_select(0, row) - 1 - place
    return torch.cat([(place * block).unsqueeze(1), rows.index_select(0, row)], dim=1)


def _rows(offsets: Tensor, tokens: int, close: bool) -> tuple[Tensor, Tensor]:
    """Begin and length of every row, and of one more: what is left after the last, or nothing."""
    begins = offsets.clamp(0, tokens)
    ends = torch.cat([begins[1:], begins.new_full((1,), tokens) if close else begins[-1:]])
    return begins, (ends - begins).clamp_min(0)
