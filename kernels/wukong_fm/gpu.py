"""Triton path of Wukong's interactions: one program per example forward, a few examples per program backward.

An example's X is read a block of its width at a time; each block gives its share of P = sum over blocks of X_d X_d^T Y
and its columns of W X, so that the width may be any, and X is read once. With a norm the backward pass reads X a second
time, from the cache, for P. The gradients of Y, W and the norm are summed over examples by as many programs as a GPU
runs at once, each over examples of its own, in float32; their sums are added up in a fixed order, so that repeats are
equal bit by bit.

Products read the inputs' dtype and add up in float32; float32 ones are exact (`ieee`), not TF32.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings, BN, BD, BK, BL
sizes of their blocks (all but BD cover the whole), S partial sums.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 264
"""Of the backward pass: two for each multiprocessor of a Hopper GPU."""


def forward(
    x: Tensor, y: Tensor, w: Tensor | None, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.wukong_fm.cpu.forward`, but keeps no P; sizes at most `kernels.wukong_fm.op.GPU_SIZES`."""
    examples, tokens, width, rank, rows = _sizes(x, y, w)
    p = x.new_empty(examples, tokens, rank)
    compressed = x.new_empty(0) if w is None else x.new_empty(examples, rows, width)
    if examples:
        given = _given(x, y, w, norm_weight, norm_bias)
        forward_kernel[(examples,)](
            *given, p, compressed, eps, **constants(tokens, width, rank, rows, x.dtype, y.dim() == 3)
        )
    return p, compressed, x.new_empty(0)


def backward(
    grad_p: Tensor,
    grad_l: Tensor,
    kept: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `kernels.wukong_fm.cpu.backward`, but computes P again for a norm; nothing is kept of it."""
    examples, tokens, width, rank, rows = _sizes(x, y, w)
    programs, dx, own = min(examples, PROGRAMS), x.new_empty(x.shape), y.dim() == 3
    dy = x.new_empty(y.shape) if own else _partial(programs, y, x)
    sums = [_partial(programs, tensor, x) for tensor in (w, norm_weight, norm_bias)]
    if programs:
        given = _given(grad_p, grad_l, x, y, w, norm_weight, norm_bias)
        backward_kernel[(programs,)](
            *given,
            dx,
            dy,
            *sums,
            examples,
            programs,
            eps,
            **constants(tokens, width, rank, rows, x.dtype, own),
        )
    dw, d_norm_weight, d_norm_bias = (partial.sum(0).to(x.dtype) for partial in sums)
    return dx, dy if own else dy.sum(0).to(x.dtype), dw, d_norm_weight, d_norm_bias


def _partial(programs: int, tensor: Tensor | None, x: Tensor) -> Tensor:
    """Memory for a gradient of each program's own; empty without the tensor."""
    return x.new_empty(programs, *([0] if tensor is None else tensor.shape), dtype=torch.float32)


def _given(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)


def _sizes(x: Tensor, y: Tensor, w: Tensor | None) -> tuple[int, ...]:
    """B, N, D, K and L."""
    return (*x.shape, y.shape[-1], 0 if w is None else len(w))


def constants(
    tokens: int, width: int, rank: int, compressed: int, dtype: torch.dtype, own: bool
) -> dict[str, Any]:
    """What a kernel is compiled for: sizes, of which a model has few, blocks, and warps of a program.

    Args: N, D, K and L, the dtype of all tensors, and whether examples have a Y of their own.
    """
    sizes = {"N": tokens, "D": width, "K": rank, "L": compressed}
    blocks = {f"B{name}": max(triton.next_power_of_2(size), 16) for name, size in sizes.items()}
    exact = dtype == torch.float32  # without tensor cores, products take many more registers
    blocks["BD"] = min(blocks["BD"], 16 if exact else 32)
    warps = 8 if exact or max(blocks["BN"], blocks["BL"]) > 64 else 4
    return sizes | blocks | {"OWN": own, "num_warps": warps, "num_stages": 2}


@triton.jit
def forward_kernel(
    x_ptr,
    y_ptr,
    w_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    p_ptr,
    l_ptr,
    eps,
    N: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    L: tl.constexpr,
    OWN: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
    BL: tl.constexpr,
):
    """Interactions and compressed embeddings of an example; grid: examples."""
    example = tl.program_id(0).to(tl.int64)
    pairs, is_pair = places(N, K, BN, BK)
    y = tl.load(y_ptr + (example * N * K if OWN else 0) + pairs, mask=is_pair, other=0.0)
    if w_ptr is not None:
        at, mask = places(L, N, BL, BN)
        w = tl.load(w_ptr + at, mask=mask, other=0.0)
    p = tl.zeros((BN, BK), dtype=tl.float32)
    for start in range(0, D, BD):
        x = columns_of(x_ptr + example * N * D, start, N, D, BN, BD)
        p = add_pairs(p, x, y)
        if w_ptr is not None:
            compressed = tl.dot(w, x, input_precision="ieee")
            store_columns(l_ptr + example * L * D, compressed, start, L, D, BL, BD)
    if norm_weight_ptr is not None:
        p, _ = normed(p, is_pair, N * K, eps)
        weight = tl.load(norm_weight_ptr + pairs, mask=is_pair, other=0.0).to(tl.float32)
        p = p * weight + tl.load(norm_bias_ptr + pairs, mask=is_pair, other=0.0).to(tl.float32)
    tl.store(p_ptr + example * N * K + pairs, p, mask=is_pair)


@triton.jit
def backward_kernel(
    grad_p_ptr,
    grad_l_ptr,
    x_ptr,
    y_ptr,
    w_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    dx_ptr,
    dy_ptr,
    dw_ptr,
    d_weight_ptr,
    d_bias_ptr,
    B,
    S,
    eps,
    N: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    L: tl.constexpr,
    OWN: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
    BL: tl.constexpr,
):
    """dX, dY of an example's own, and partial sums of the other gradients; grid: S, each every S-th example."""
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    part = tl.program_id(0).to(tl.int64)
    pairs, is_pair = places(N, K, BN, BK)
    dy = tl.zeros((BN, BK), dtype=tl.float32)
    dw = tl.zeros((BL, BN), dtype=tl.float32)
    w_at, is_w = places(L, N, BL, BN)
    d_weight, d_bias = tl.zeros((BN, BK), dtype=tl.float32), tl.zeros((BN, BK), dtype=tl.float32)
    for example in range(part, B, S):
        y = tl.load(y_ptr + (example * N * K if OWN else 0) + pairs, mask=is_pair, other=0.0)
        dp = tl.load(grad_p_ptr + example * N * K + pairs, mask=is_pair, other=0.0).to(tl.float32)
        if norm_weight_ptr is not None:
            p = tl.zeros((BN, BK), dtype=tl.float32)
            for start in range(0, D, BD):
                p = add_pairs(p, columns_of(x_ptr + example * N * D, start, N, D, BN, BD), y)
            p, rstd = normed(p, is_pair, N * K, eps)
            d_weight += dp * p
            d_bias += dp
            dp *= tl.load(norm_weight_ptr + pairs, mask=is_pair, other=0.0).to(tl.float32)
            dp = norm_backward(dp, p, rstd, is_pair, N * K)
        narrow_dp = dp.to(dtype)
        if OWN:
            dy = tl.zeros((BN, BK), dtype=tl.float32)
        for start in range(0, D, BD):
            x = columns_of(x_ptr + example * N * D, start, N, D, BN, BD)
            z = tl.dot(tl.trans(x), y, input_precision="ieee").to(dtype)
            dz = tl.dot(tl.trans(x), narrow_dp, input_precision="ieee").to(dtype)
            dx = tl.dot(narrow_dp, tl.trans(z), input_precision="ieee")
            dx = tl.dot(y, tl.trans(dz), dx, input_precision="ieee")
            dy = tl.dot(x, dz, dy, input_precision="ieee")
            if w_ptr is not None:
                dl = columns_of(grad_l_ptr + example * L * D, start, L, D, BL, BD)
                # Read anew from the cache: it has no room in the registers.
                w = tl.load(w_ptr + w_at, mask=is_w, other=0.0)
                dx = tl.dot(tl.trans(w), dl, dx, input_precision="ieee")
                dw = tl.dot(dl, tl.trans(x), dw, input_precision="ieee")
            store_columns(dx_ptr + example * N * D, dx, start, N, D, BN, BD)
        if OWN:
            tl.store(dy_ptr + example * N * K + pairs, dy, mask=is_pair)
    if not OWN:
        tl.store(dy_ptr + part * N * K + pairs, dy, mask=is_pair)
    if w_ptr is not None:
        tl.store(dw_ptr + part * L * N + w_at, dw, mask=is_w)
    if norm_weight_ptr is not None:
        tl.store(d_weight_ptr + part * N * K + pairs, d_weight, mask=is_pair)
        tl.store(d_bias_ptr + part * N * K + pairs, d_bias, mask=is_pair)


@triton.jit
def places(rows: tl.constexpr, columns: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """Places in a matrix [rows, columns], and which of them there are, [BR, BC]."""
    row, column = tl.arange(0, BR)[:, None], tl.arange(0, BC)[None, :]
    return row * columns + column, (row < rows) & (column < columns)


@triton.jit
def columns_of(ptr, start, rows: tl.constexpr, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr):
    """Some columns of a matrix [rows, D], [BR, BD]; 0 beyond."""
    row, column = tl.arange(0, BR)[:, None], start + tl.arange(0, BD)[None, :]
    return tl.load(ptr + row * D + column, mask=(row < rows) & (column < D), other=0.0)


@triton.jit
def store_columns(
    ptr, values, start, rows: tl.constexpr, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr
):
    """Write columns of a matrix [rows, D] from [BR, BD]."""
    row, column = tl.arange(0, BR)[:, None], start + tl.arange(0, BD)[None, :]
    tl.store(ptr + row * D + column, values, mask=(row < rows) & (column < D))


@triton.jit
def add_pairs(p, x, y):
    """p + X (X^T Y), of some columns of X."""
    z = tl.dot(tl.trans(x), y, input_precision="ieee").to(x.dtype)
    return tl.dot(x, z, p, input_precision="ieee")


@triton.jit
def normed(p, is_pair, numbers, eps):
    """Pairs normed together, 0 where there is none, and one by their deviation."""
    mean = tl.sum(tl.sum(p, axis=1), axis=0) / numbers
    centred = tl.where(is_pair, p - mean, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(tl.sum(centred * centred, axis=1), axis=0) / numbers + eps)
    return tl.where(is_pair, centred * rstd, 0.0), rstd


@triton.jit
def norm_backward(d_normed, normed_pairs, rstd, is_pair, numbers):
    """Gradient of the pairs from that of the normed ones."""
    mean = tl.sum(tl.sum(d_normed, axis=1), axis=0) / numbers
    along = tl.sum(tl.sum(d_normed * normed_pairs, axis=1), axis=0) / numbers
    return tl.where(is_pair, rstd * (d_normed - mean - normed_pairs * along), 0.0)
