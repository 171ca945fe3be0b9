"""Triton kernels of embedding tables: pooled look-up, and row-wise AdaGrad on each row's summed gradient.

Backward the ids are sorted by row, and the program of a row's first id sums the gradients of all bags that the row is
in, in the order of the batch, and updates the row: no atomics, repeats are equal bit by bit, and nothing waits for the
GPU. Sums are in float32.

Shape letters: E rows, D embedding dim, M ids of all bags.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BAGS, IDS = 16, 16
"""Bags that a program looks up, ids whose gradients it loads at once: 512 numbers or so for the usual D of 32."""


def pooled(weight: Tensor, rows: Tensor, offsets: Tensor, mean: bool) -> Tensor:
    """The sum or mean of every bag's rows; 0 for an empty bag.

    Args:
        weight: float32 [E, D].
        rows: int64 [M].
        offsets: int64 [bags + 1]; bag i holds rows[offsets[i]:offsets[i + 1]].
        mean: divide by the number of ids.

    Returns:
        float32 [bags, D].
    """
    bags, dim = offsets.numel() - 1, weight.shape[1]
    out = weight.new_empty(bags, dim)
    if bags:
        sizes = {"MEAN": mean, "BB": BAGS, "BD": triton.next_power_of_2(dim)}
        pool_kernel[(triton.cdiv(bags, BAGS),)](weight, rows, offsets, out, bags, dim, **sizes, num_warps=4)
    return out


def update(
    weight: Tensor,
    moment: Tensor,
    gradient: Tensor,
    rows: Tensor,
    offsets: Tensor,
    mean: bool,
    learning_rate: float,
    eps: float,
) -> None:
    """m += mean of g^2 over D, w -= rate * g / (sqrt(m) + eps), with g a row's gradient; other rows stay as they are.

    Args:
        weight, moment: float32 [E, D] and [E], changed in place.
        gradient: float32 [bags, D], of what `pooled` gave.
        rows, offsets, mean: as `pooled` had them.
        learning_rate, eps: of the row-wise AdaGrad.
    """
    if not rows.numel():
        return
    bags = torch.arange(offsets.numel() - 1, device=rows.device)
    of_ids = bags.repeat_interleave(offsets.diff(), output_size=rows.numel())
    # Stable: equal rows stay in the order of the batch.
    by_row, order = torch.sort(rows, stable=True)
    first, end = (torch.searchsorted(by_row, by_row, right=right) for right in (False, True))
    sizes = {"MEAN": mean, "BI": IDS, "BD": triton.next_power_of_2(weight.shape[1])}
    tensors = gradient.contiguous(), by_row, of_ids.index_select(0, order), first, end, offsets
    update_kernel[(rows.numel(),)](
        weight, moment, *tensors, weight.shape[1], learning_rate, eps, **sizes, num_warps=2
    )


@triton.jit
def pool_kernel(
    weight_ptr,
    rows_ptr,
    offsets_ptr,
    out_ptr,
    bags,
    D,
    MEAN: tl.constexpr,
    BB: tl.constexpr,
    BD: tl.constexpr,
):
    """Some bags, one id of each at a time; grid: blocks of bags."""
    bag = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB)
    columns = tl.arange(0, BD)[None, :]
    first = tl.load(offsets_ptr + bag, mask=bag < bags, other=0)
    length = tl.load(offsets_ptr + bag + 1, mask=bag < bags, other=0) - first
    total = tl.zeros((BB, BD), dtype=tl.float32)
    for place in range(0, tl.max(length, axis=0)):
        there = place < length
        row = tl.load(rows_ptr + first + place, mask=there, other=0)
        total += tl.load(
            weight_ptr + row[:, None] * D + columns, mask=there[:, None] & (columns < D), other=0.0
        )
    if MEAN:
        total /= tl.maximum(length, 1).to(tl.float32)[:, None]
    tl.store(out_ptr + bag[:, None] * D + columns, total, mask=(bag < bags)[:, None] & (columns < D))


@triton.jit
def update_kernel(
    weight_ptr,
    moment_ptr,
    gradient_ptr,
    rows_ptr,
    bags_ptr,
    first_ptr,
    end_ptr,
    offsets_ptr,
    D,
    learning_rate,
    eps,
    MEAN: tl.constexpr,
    BI: tl.constexpr,
    BD: tl.constexpr,
):
    """One row, by the program of its first id; grid: ids, sorted by row."""
    place = tl.program_id(0)
    if tl.load(first_ptr + place) == place:
        columns = tl.arange(0, BD)
        end = tl.load(end_ptr + place).to(tl.int32)
        total = tl.zeros((BD,), dtype=tl.float32)
        for start in range(place, end, BI):
            at = start + tl.arange(0, BI)
            bag = tl.load(bags_ptr + at, mask=at < end, other=0)
            mask = (at < end)[:, None] & (columns < D)[None, :]
            g = tl.load(gradient_ptr + bag[:, None] * D + columns[None, :], mask=mask, other=0.0)
            if MEAN:
                length = tl.load(offsets_ptr + bag + 1) - tl.load(offsets_ptr + bag)
                g /= tl.maximum(length, 1).to(tl.float32)[:, None]
            total += tl.sum(g, axis=0)
        row = tl.load(rows_ptr + place)
        moment = tl.load(moment_ptr + row) + tl.sum(total * total, axis=0) / D
        tl.store(moment_ptr + row, moment)
        weights = weight_ptr + row * D + columns
        w = tl.load(weights, mask=columns < D, other=0.0)
        tl.store(weights, w - learning_rate * total / (tl.sqrt(moment) + eps), mask=columns < D)
