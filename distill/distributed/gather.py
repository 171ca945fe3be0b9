"""Rows that several processes hold, brought together in the first one, as plain numbers and never as objects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from distill.distributed.share import processes


def rows_of_all(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of all processes, one process after another; a collective call where there are several.

    Args:
        columns: of this process, [rows, ...]; names, types and widths are the same in all processes.

    Returns:
        All rows in the first process; in another one only its own.
    """
    if processes() == 1:
        return dict(columns)
    own = len(next(iter(columns.values())))
    rows = [torch.zeros(1, dtype=torch.int64) for _ in range(processes())]
    dist.all_gather(rows, torch.tensor([own]))
    return {name: _of_all(column, [int(number) for number in rows]) for name, column in columns.items()}


@torch.no_grad()
def whole_batch(rows: Tensor) -> Tensor:
    """The rows of a batch, of which each process holds its share; a collective call where there are several.

    Args:
        rows: [B, C] of this process.

    Returns:
        Those of all, in the order of the whole batch, without gradients.
    """
    if processes() == 1:
        return rows
    numbers = [torch.zeros(1, dtype=torch.int64) for _ in range(processes())]
    dist.all_gather(numbers, torch.tensor([len(rows)]))
    longest = max(int(number) for number in numbers)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in numbers]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(number)] for part, number in zip(parts, numbers, strict=True)])


def _of_all(column: np.ndarray, rows: list[int]) -> np.ndarray:
    """One column; gloo gathers equal parts only, so that each is filled up to the longest."""
    padded = np.zeros((max(rows), *column.shape[1:]), column.dtype)
    padded[: len(column)] = column
    part = torch.from_numpy(padded)
    parts = [torch.empty_like(part) for _ in rows] if dist.get_rank() == 0 else None
    dist.gather(part, parts)
    if parts is None:
        return column
    return np.concatenate([found.numpy()[:number] for found, number in zip(parts, rows, strict=True)])
