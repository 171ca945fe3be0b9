"""Cases of jagged attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from experiments.benchmarks.kernels import attention_routes as routes
from experiments.benchmarks.kernels.case import COMPILED, Case, Function, both_directions, compiled, leaves
from kernels.jagged_attention import jagged_attention

PADDED, SPLIT, BUCKETED = "padded SDPA", "per-row split", "bucketed SDPA"
Shape = tuple[int, int, int, int, int]
SHAPES: dict[str, list[Shape]] = {
    "cpu": [(64, 100, 1000, 4, 16), (1024, 20, 200, 4, 16), (512, 50, 500, 4, 16)],
    "cuda": [(1024, 512, 2048, 4, 64), (256, 2048, 8192, 4, 64), (4096, 50, 200, 4, 16)],
    "dry": [(6, 12, 40, 2, 16)],
}
"""Rows, mean and largest length, heads, floats per head."""
POOLS: dict[str, list[tuple[int, Shape]]] = {
    "cpu": [(4, (512, 50, 500, 4, 16))],
    "cuda": [(16, (1024, 512, 2048, 4, 64))],
    "dry": [(3, (6, 12, 40, 2, 16))],
}
"""Seeds, which are the queries of every row, and the rows."""


def attention(device: str, dtype: torch.dtype, dry: bool) -> Iterator[Case]:
    """Self-attention with and without a causal order.

    Args:
        device: `cpu` or `cuda`.
        dtype: of q, k and v.
        dry: one tiny shape, and nothing compiled.
    """
    for count, mean, most, heads, width in SHAPES["dry" if dry else device]:
        lengths = draw_lengths(count, mean, most)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(device)
        inputs = leaves(*[(int(lengths.sum()), heads, width)] * 3, dtype=dtype, device=device)
        for causal in (False, True):
            rows = routes.Rows(offsets, lengths.tolist(), causal)
            name = f"B {count} mean {mean} max {most} H {heads} E {width}{' causal' * causal}"
            ours = partial(_ours, offsets=offsets, causal=causal)
            yield from both_directions("jagged_attention", name, inputs, ours, _stock(rows, device, dry))
    yield from _pooling(device, dtype, dry)


def _pooling(device: str, dtype: torch.dtype, dry: bool) -> Iterator[Case]:
    for seeds, (count, mean, most, heads, width) in POOLS["dry" if dry else device]:
        lengths = draw_lengths(count, mean, most).clamp_min(
            1
        )  # a softmax over nothing has no definition in torch
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(device)
        keys = (int(lengths.sum()), heads, width)
        inputs = leaves((seeds, heads, width), keys, keys, dtype=dtype, device=device)
        name = f"B {count} mean {mean} max {most} H {heads} E {width}, pooled by {seeds} seeds"
        padded = routes.padded_pooling(routes.Rows(offsets, lengths.tolist(), causal=False))
        stock: dict[str, Function] = {PADDED: padded}
        if not dry:
            stock[COMPILED] = compiled(padded)
        yield from both_directions("jagged_attention", name, inputs, partial(_pool, offsets=offsets), stock)


def draw_lengths(rows: int, mean: int, most: int) -> Tensor:
    """Lengths of rows, int64: exponential, the longest `most`, the others scaled so that the mean is `mean`.

    Args:
        rows: how many, at least 2.
        mean: of all rows, exact but for rounding.
        most: of the longest row.
    """
    drawn = -torch.rand(rows, generator=torch.Generator().manual_seed(0)).log()
    longest = int(drawn.argmax())
    drawn[longest] = 0.0
    for _ in range(20):  # what is cut at `most` is made up for by the others
        drawn = (drawn * ((rows * mean - most) / drawn.sum())).clamp_max(most)
    lengths = drawn.round().long()
    lengths[longest] = most
    return lengths


def _stock(rows: routes.Rows, device: str, dry: bool) -> dict[str, Function]:
    """What runs on the device; a dry run has all that run on a CPU."""
    stock: dict[str, Function] = {PADDED: routes.padded(rows), BUCKETED: routes.bucketed(rows)}
    if device == "cpu":
        stock[SPLIT] = routes.split(rows)
    if device == "cuda" or dry:
        stock["eager"] = routes.padded_eager(rows)
    if device == "cuda":
        stock["FlexAttention with its mask"] = routes.flex(rows, compiled=True)
        stock["varlen"] = routes.varlen(rows)
        stock[COMPILED] = compiled(routes.padded_eager(rows))
    return stock


def _ours(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, causal: bool) -> Tensor:
    return jagged_attention(q, k, v, offsets, offsets, causal=causal)


def _pool(seeds: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    return jagged_attention(seeds, k, v, None, offsets)
