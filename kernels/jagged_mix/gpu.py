"""Triton path of jagged mixing: one program takes a row's matrix into registers, and all tokens of the row past it.

The gradient of a matrix is summed by that one program in float32, token block after token block, so that repeats are
equal bit by bit. Products read the inputs' dtype and add up in float32; float32 ones are exact (`ieee`), not TF32.
Tokens that lie in no row give zeros.

Shape letters: B rows (examples), T tokens of all rows, M numbers per token, D width, BT, BM, BD sizes of their blocks
(BM and BD cover the whole).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def forward(values: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """As `kernels.jagged_mix.cpu.forward`; M and D at most `kernels.jagged_mix.op.GPU_SIZES`."""
    out = values.new_zeros(len(values), matrices.shape[2])
    if len(matrices):
        given = (x.contiguous() for x in (values, matrices, offsets))
        forward_kernel[(len(matrices),)](*given, out, **_constants_of(matrices))
    return out


def backward(grad: Tensor, values: Tensor, matrices: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """As `kernels.jagged_mix.cpu.backward`."""
    d_values, d_matrices = values.new_zeros(values.shape), matrices.new_empty(matrices.shape)
    if len(matrices):
        given = (x.contiguous() for x in (grad, values, matrices, offsets))
        backward_kernel[(len(matrices),)](*given, d_values, d_matrices, **_constants_of(matrices))
    return d_values, d_matrices


def _constants_of(matrices: Tensor) -> dict[str, Any]:
    _, mixed, width = matrices.shape
    return constants(mixed, width, matrices.dtype)


def constants(mixed: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a kernel is compiled for: M and D, of which a model has few, blocks, and warps of a program."""
    blocks = {
        f"B{name}": max(triton.next_power_of_2(size), 16) for name, size in (("M", mixed), ("D", width))
    }
    # Without tensor cores, products take many more registers.
    tokens, warps = (16, 8) if dtype == torch.float32 else (32, 4)
    return {"M": mixed, "D": width, "BT": tokens, **blocks, "num_warps": warps}


@triton.jit
def forward_kernel(
    values_ptr,
    matrices_ptr,
    offsets_ptr,
    out_ptr,
    M: tl.constexpr,
    D: tl.constexpr,
    BT: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Results of a row's tokens; grid: rows."""
    row = tl.program_id(0).to(tl.int64)
    matrix = block_of(matrices_ptr + row * M * D, 0, M, D, BM, BD)
    end = tl.load(offsets_ptr + row + 1)
    for start in range(tl.load(offsets_ptr + row), end, BT):
        v = block_of(values_ptr, start, end, M, BT, BM)
        store_block(out_ptr, tl.dot(v, matrix, input_precision="ieee"), start, end, D, BT, BD)


@triton.jit
def backward_kernel(
    grad_ptr,
    values_ptr,
    matrices_ptr,
    offsets_ptr,
    d_values_ptr,
    d_matrices_ptr,
    M: tl.constexpr,
    D: tl.constexpr,
    BT: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Gradients of a row's tokens and of its matrix; grid: rows."""
    row = tl.program_id(0).to(tl.int64)
    matrix = tl.trans(block_of(matrices_ptr + row * M * D, 0, M, D, BM, BD))
    total = tl.zeros((BM, BD), dtype=tl.float32)
    end = tl.load(offsets_ptr + row + 1)
    for start in range(tl.load(offsets_ptr + row), end, BT):
        v = block_of(values_ptr, start, end, M, BT, BM)
        dy = block_of(grad_ptr, start, end, D, BT, BD)
        store_block(d_values_ptr, tl.dot(dy, matrix, input_precision="ieee"), start, end, M, BT, BM)
        total = tl.dot(tl.trans(v), dy, total, input_precision="ieee")
    store_block(d_matrices_ptr + row * M * D, total, 0, M, D, BM, BD)


@triton.jit
def block_of(ptr, start, end, columns: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """Rows start, start + 1, ... before `end` of a matrix with so many columns, [BR, BC]; 0 beyond."""
    row, column = start + tl.arange(0, BR)[:, None], tl.arange(0, BC)[None, :]
    return tl.load(ptr + row * columns + column, mask=(row < end) & (column < columns), other=0.0)


@triton.jit
def store_block(ptr, block, start, end, columns: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """Write what `block_of` would read."""
    row, column = start + tl.arange(0, BR)[:, None], tl.arange(0, BC)[None, :]
    tl.store(ptr + row * columns + column, block, mask=(row < end) & (column < columns))
