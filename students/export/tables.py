"""Rows of the tables for serving: in fp32, fp16 or int8, looked up by plain torch operations.

Shape letters: R rows, D width, B candidates, F features, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from students.export.signature import Precision

LEVELS = 255


def encode(rows: Tensor, precision: Precision) -> list[Tensor]:
    """The arrays that stand for a table (`signature.ARRAYS`).

    int8 is row-wise: a row's numbers lie on 256 steps between its lowest and its highest, as in fbgemm's
    `quantize_fused_8bit_rowwise`. A row of equal numbers is kept exactly.

    Args:
        rows: float32 [R, D].
        precision: of the result.
    """
    if precision == "fp32":
        return [rows.contiguous()]
    if precision == "fp16":
        return [rows.half()]
    low = rows.amin(1)
    scale = (rows.amax(1) - low) / LEVELS
    steps = (rows - low.unsqueeze(1)) / torch.where(scale > 0, scale, 1.0).unsqueeze(1)
    return [steps.round().clamp(0, LEVELS).to(torch.uint8), scale, low]


def gather(arrays: Sequence[Tensor], ids: Tensor) -> Tensor:
    """Rows of a table, float32 [..., D] for ids [...]."""
    rows = arrays[0][ids].float()
    if len(arrays) == 1:
        return rows
    _, scale, low = arrays
    return rows * scale[ids].unsqueeze(-1) + low[ids].unsqueeze(-1)


def gather_bags(arrays: Sequence[Tensor], ids: Tensor, offsets: Tensor) -> Tensor:
    """Sums of rows, float32 [B, D].

    Args:
        arrays: of the table.
        ids: int64 [V].
        offsets: int64 [B + 1]; the ids of example b lie at offsets[b]:offsets[b + 1].
    """
    if len(arrays) == 1 and arrays[0].dtype == torch.float32:
        return functional.embedding_bag(ids, arrays[0], offsets, mode="sum", include_last_offset=True)
    places = torch.arange(ids.size(0), device=ids.device)
    return functional.embedding_bag(
        places, gather(arrays, ids), offsets, mode="sum", include_last_offset=True
    )
