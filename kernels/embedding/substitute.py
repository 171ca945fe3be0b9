"""What stands in on a GPU where the installed fbgemm is its CPU build: a table of our own kernels, in one process.

Same numbers as fbgemm's fused table with its row-wise AdaGrad, behind the same front (`kernels.embedding.tables`).

Shape letters: E rows, D embedding dim, M ids of all bags, N bags, K keys.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import fbgemm_gpu
import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import KeyedJaggedTensor

from kernels.embedding.keys import beside
from kernels.embedding.process_group import ensure_process_group
from kernels.triton_path import check_gpu, on_device_of


def is_substituted(device: torch.device) -> bool:
    """Whether the installed fbgemm cannot serve a device."""
    return device.type == "cuda" and fbgemm_gpu.__variant__ == "cpu"


class SubstituteTable:
    """One table of all features' rows, float32; the backward pass updates it.

    Args:
        rows, dim: E and D.
        learning_rate, eps: of the row-wise AdaGrad.
        device: where the rows live.
        mean: bags give the mean of their rows, not the sum.

    Raises:
        RuntimeError: there are several processes, or triton is not installed.
        ValueError: a GPU older than an A100.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        learning_rate: float,
        eps: float,
        device: torch.device,
        mean: bool = False,
    ):
        ensure_process_group()
        _check_processes()
        if device.type == "cuda":
            check_gpu("embedding", device)
        _say_what_it_means()
        self.learning_rate, self.eps, self.mean = learning_rate, eps, mean
        self.weight = torch.zeros(rows, dim, device=device)
        self.moment = torch.zeros(rows, device=device)
        # Its only use is to be asked for a gradient: the rows are no leaf of autograd.
        self._anchor = torch.zeros((), requires_grad=True)

    def look_up(self, ids: Sequence[KeyedJaggedTensor]) -> list[Tensor]:
        """Rows of the bags, each key's beside those of the one before, [N / K, K * D]."""
        (bags,) = ids
        return [beside(self.pooled(bags.values(), bags.offsets()))]

    def pooled(self, rows: Tensor, offsets: Tensor) -> Tensor:
        """Sums, or means, of bags of rows: [N, D] from int64 [M] and [N + 1]."""
        return _LookUp.apply(self._anchor, self, rows.contiguous(), offsets.contiguous())

    def set_learning_rate(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def local(self, owner: int) -> tuple[int, Tensor, Tensor]:
        """First row, rows and moments, not copied."""
        return 0, self.weight, self.moment

    def whole(self, owner: int) -> tuple[Tensor, Tensor]:
        """All rows and moments, not copied."""
        return self.weight, self.moment


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, table: SubstituteTable, rows: Tensor, offsets: Tensor) -> Tensor:
        ctx.table, ctx.rows, ctx.offsets = table, rows, offsets
        with on_device_of(rows):
            return _path().pooled(table.weight, rows, offsets, table.mean)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None]:
        table: SubstituteTable = ctx.table
        settings = table.mean, table.learning_rate, table.eps
        with on_device_of(gradients[0]):
            _path().update(table.weight, table.moment, gradients[0], ctx.rows, ctx.offsets, *settings)
        return None, None, None, None


def _path() -> ModuleType:
    """The kernels; they need triton, which a CPU does without."""
    from kernels.embedding import gpu

    return gpu


def _check_processes() -> None:
    if dist.get_world_size() > 1:
        raise RuntimeError(
            f"device: got 'cuda' in {dist.get_world_size()} processes, allowed: 'cpu', because the installed "
            "fbgemm-gpu is its CPU build, and without the CUDA build tables on a GPU are not shared among processes. "
            "Keep them on the CPU, or install the CUDA build of fbgemm-gpu and start again"
        )


@functools.cache
def _say_what_it_means() -> None:
    """Once in a process."""
    warnings.warn(
        "embedding tables on a GPU: the installed fbgemm-gpu is its CPU build, so this project's Triton kernels stand "
        "in. Numbers are the same up to rounding; it is slower where one row is hit very often, holds float32 rows in "
        "the GPU's memory only, and runs in one process. Install the CUDA build of fbgemm-gpu to have its tables",
        RuntimeWarning,
        stacklevel=2,
    )


def in_order(sparse: KeyedJaggedTensor, order: list[int]) -> KeyedJaggedTensor:
    """`sparse.permute(order)`, whose own operator only fbgemm's CUDA build has on a GPU."""
    keys, stride = sparse.keys(), sparse.stride()
    lengths = sparse.lengths().view(len(keys), stride)
    values = sparse.values().split(lengths.sum(1).tolist())
    return KeyedJaggedTensor(
        [keys[place] for place in order],
        torch.cat([values[place] for place in order]),
        lengths=lengths[order].flatten(),
        stride=stride,
    )


def permuted(order: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths and rows of bags in another order, as `fbgemm.permute_1D_sparse_data` gives them.

    Args:
        order: int32 [N], which bag comes first, second, ...
        lengths: int64 [N].
        rows: int64 [M], bag by bag.
    """
    first, new = lengths.cumsum(0) - lengths, lengths.index_select(0, order)
    shift = first.index_select(0, order) - (new.cumsum(0) - new)
    places = torch.arange(rows.numel(), device=rows.device)
    return new, rows.index_select(0, places + shift.repeat_interleave(new, output_size=rows.numel()))


def complete_cumsum(lengths: Tensor) -> Tensor:
    """Offsets [N + 1] of lengths [N]."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
