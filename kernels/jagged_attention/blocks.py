"""Which queries meet which keys: blocks of a jagged batch, those of one shape together.

A block is one row; under a window it is a run of queries of a row with the keys that any of them sees. Blocks of one
shape need one mask and one call. Nothing is padded: the end of a row makes a shorter block.

Shape letters: B rows, Tq and Tk queries and keys of all rows, n blocks of one shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# Queries of a block under a narrow window: below this, flash attention pays more for calling than for scores.
LEAST_QUERIES = 32
# Tokens copied together: enough to keep flash attention busy, few enough to stay in the cache.
TOKENS_TOGETHER = 16_384


@dataclass(frozen=True)
class Part:
    """The tokens of one side of a group: `blocks` blocks of `length` each.

    Attributes:
        blocks, length: how many, and of how many tokens.
        where: a slice where they lie one behind another, else int64 [blocks * length] positions.
    """

    blocks: int
    length: int
    where: slice | Tensor

    def take(self, x: Tensor) -> Tensor:
        """The group's tokens of x, `heads_first`, as [blocks, H, length, ...]."""
        if isinstance(self.where, slice):
            return self._view(x, self.where.start)
        return self._view(heads_first(_tokens_first(x).index_select(0, self.where)), 0)

    def put(self, x: Tensor, values: Tensor) -> None:
        """Write values [blocks, H, length, ...] to the group's tokens of x, `heads_first`."""
        if isinstance(self.where, slice):
            self._view(x, self.where.start).copy_(values)
        else:
            _tokens_first(x).index_copy_(0, self.where, values.transpose(1, 2).flatten(0, 1))

    def add(self, x: Tensor, values: Tensor) -> None:
        """Add values [blocks, H, length, ...] to the group's tokens of x, `heads_first` of what is contiguous."""
        if isinstance(self.where, slice):
            self._view(x, self.where.start).add_(values)
        else:
            # Many times faster on two dimensions than on three.
            tokens = values.transpose(1, 2).flatten(0, 1).flatten(1)
            _tokens_first(x).flatten(1).index_add_(0, self.where, tokens)

    def _view(self, x: Tensor, start: int) -> Tensor:
        """The tokens of x [1, H, T, ...] from `start` on, as [blocks, H, length, ...]."""
        if self.blocks == 1:
            return x.narrow(2, start, self.length)
        # One call instead of three: their overhead counts.
        _, head, token, *inner = x.stride()
        size = (self.blocks, x.shape[1], self.length, *x.shape[3:])
        stride = (self.length * token, head, token, *inner)
        return x.as_strided(size, stride, x.storage_offset() + start * token)


def heads_first(x: Tensor) -> Tensor:
    """[1, H, T, ...], a view of [T, H, ...]."""
    return x.transpose(0, 1).unsqueeze(0)


def _tokens_first(x: Tensor) -> Tensor:
    """What `heads_first` is a view of."""
    return x.squeeze(0).transpose(0, 1)


@dataclass(frozen=True)
class Group:
    """Blocks of one shape.

    Attributes:
        queries, keys: their tokens; the same object when a block attends to itself.
        shift: place of a block's first query minus place of its first key.
    """

    queries: Part
    keys: Part
    shift: int


def groups(q_offsets: Tensor, k_offsets: Tensor, causal: bool, window: int) -> tuple[Group, ...]:
    """All blocks that have both queries and keys.

    Args:
        q_offsets, k_offsets: int64 [B + 1].
        causal: a query sees the keys up to its own place only.
        window: a query sees the keys closer than this; 0 for all.
    """
    queries, keys = q_offsets.numpy(), k_offsets.numpy()
    return _groups(queries.tobytes(), keys.tobytes(), causal, window)


# Layers over the same rows, and the backward pass of each, ask for the same groups.
@lru_cache(maxsize=8)
def _groups(queries: bytes, keys: bytes, causal: bool, window: int) -> tuple[Group, ...]:
    q_offsets, k_offsets = np.frombuffer(queries, np.int64), np.frombuffer(keys, np.int64)
    if window:
        return tuple(_alike(_windowed(q_offsets, causal, window), same=True))
    q_lengths, k_lengths = np.diff(q_offsets), np.diff(k_offsets)
    blocks = np.stack([q_offsets[:-1], q_lengths, k_offsets[:-1], k_lengths, np.zeros_like(q_lengths)])
    return tuple(_alike(blocks, same=queries == keys))


def _windowed(offsets: np.ndarray, causal: bool, window: int) -> np.ndarray:
    """Blocks of self-attention [5, n]: first query, queries, first key, keys, shift."""
    lengths = np.diff(offsets)
    window = min(window, int(lengths.max(initial=1)))
    size = max(window, LEAST_QUERIES)
    counts = -(-lengths // size)
    row = np.repeat(np.arange(len(counts)), counts)
    first = offsets[row] + (np.arange(len(row)) - (counts.cumsum() - counts)[row]) * size
    stop = np.minimum(first + size, offsets[row + 1])
    first_key = np.maximum(first - (window - 1), offsets[row])
    stop_key = stop if causal else np.minimum(stop + (window - 1), offsets[row + 1])
    return np.stack([first, stop - first, first_key, stop_key - first_key, first - first_key])


def _alike(blocks: np.ndarray, same: bool) -> Iterator[Group]:
    """Groups of blocks [5, n] of equal shape, no more of them in a group than fit together."""
    first, queries, first_key, keys, shift = blocks
    order = np.lexsort((shift, keys, queries))
    shapes = np.stack([queries, keys, shift])[:, order]
    begins = np.flatnonzero(np.diff(shapes, axis=1, prepend=-1).any(axis=0))
    for begin, members in zip(begins, np.split(order, begins)[1:], strict=True):
        q_length, k_length, shift_ = shapes[:, begin].tolist()
        if not (q_length and k_length):
            continue
        together = max(1, TOKENS_TOGETHER // max(q_length, k_length))
        for some in np.split(members, range(together, len(members), together)):
            part = _part(first[some], q_length)
            itself = same and q_length == k_length
            yield Group(part, part if itself else _part(first_key[some], k_length), shift_)


def _part(starts: np.ndarray, length: int) -> Part:
    if (np.diff(starts) == length).all():
        return Part(len(starts), length, slice(int(starts[0]), int(starts[-1]) + length))
    where = (starts[:, None] + np.arange(length)).reshape(-1)
    return Part(len(starts), length, torch.from_numpy(where))


def unwritten(x: Tensor, q_offsets: Tensor, k_offsets: Tensor) -> Tensor:
    """Memory like x for the groups to write; zeros when a row has only queries or only keys, as none does."""
    one_sided = (q_offsets.diff() == 0) != (k_offsets.diff() == 0)
    return x.new_zeros(x.shape) if bool(one_sided.any()) else x.new_empty(x.shape)
