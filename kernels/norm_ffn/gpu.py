"""Triton path of the feed-forward block: forward pass, gradient of the rows, gradients of the weights.

One program takes some rows through all hidden units, a block of these at a time, so that hidden units exist in
registers only. Nothing is saved but x. The weights' gradients are summed over rows by as many programs as a GPU runs at
once, each over rows of its own, in float32; their sums are added up in a fixed order, so that repeats are equal bit by
bit.

Products read the weights' dtype and add up in float32; float32 ones are exact (`ieee`), not TF32. Norm, activation and
residual are in float32.

Shape letters: T rows, D width, F hidden units, BT, BD, BF sizes of their blocks (BD covers D), P partial sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.norm_ffn.folding import unfold

PROGRAMS = 264
"""That sum up the weights' gradients: two for each multiprocessor of a Hopper GPU."""


@dataclass(frozen=True)
class Launch:
    """Sizes of a kernel's launch.

    Attributes:
        rows, units: BT and BF.
        warps, stages: of a program, and of the pipeline of its loads.
    """

    rows: int
    units: int
    warps: int
    stages: int


def launches(width: int, products: torch.dtype, gated: bool) -> tuple[Launch, Launch, Launch]:
    """Of the forward pass, the gradient of the rows and the gradients of the weights: what registers hold.

    Args: width D, products the dtype that is multiplied, gated as in the operator.
    """
    if products == torch.float32:
        return Launch(16, 16, 8, 2), Launch(16, 16, 8, 2), Launch(16, 16, 8, 1)
    if width <= 64:
        return Launch(64, 64, 8, 3), Launch(64, 32, 8, 3), Launch(32, 32, 8, 2)
    return Launch(64, 64, 8, 3), Launch(32 if gated else 64, 32, 8, 2), Launch(16, 32, 8, 2)


def forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    activation: str,
    gated: bool,
    eps: float,
    products: torch.dtype,
) -> Tensor:
    """As `kernels.norm_ffn.cpu.forward`; D at most `kernels.norm_ffn.op.GPU_WIDTH`."""
    x, out = x.contiguous(), x.new_empty(x.shape)
    launch, _, _ = launches(x.shape[1], products, gated)
    weights = _contiguous(norm_weight, norm_bias, w1.to(products), b1, w2.to(products), b2)
    if len(x):
        forward_kernel[(triton.cdiv(len(x), launch.rows),)](
            x, *weights, out, *x.shape, w2.shape[1], eps, **_options(launch, x.shape[1], activation, gated)
        )
    return out


def backward(
    grad: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    activation: str,
    gated: bool,
    eps: float,
    products: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `kernels.norm_ffn.cpu.backward`."""
    (grad, x), dx = _contiguous(grad, x), x.new_empty(x.shape)
    weights = _contiguous(norm_weight, norm_bias, w1.to(products), b1, w2.to(products))
    (rows, width), units = x.shape, w2.shape[1]
    _, of_rows, of_weights = launches(width, products, gated)
    unit_blocks = triton.cdiv(units, of_weights.units)
    parts = min(max(PROGRAMS // unit_blocks, 1), triton.cdiv(rows, of_weights.rows))
    sizes = [(len(w1), width), (len(w1),), (units, width), (width,)]
    partial = [x.new_empty(parts, *shape, dtype=torch.float32) for shape in sizes]
    if rows:
        backward_rows_kernel[(triton.cdiv(rows, of_rows.rows),)](
            grad, x, *weights, dx, rows, width, units, eps, **_options(of_rows, width, activation, gated)
        )
        options = _options(of_weights, width, activation, gated)
        backward_weights_kernel[(unit_blocks, parts)](
            grad, x, *weights, *partial, rows, width, units, eps, parts, **options
        )
    d_folded, d_shift, d_w2, d_b2 = (sums.sum(0) for sums in partial)
    gradients = unfold(d_folded, d_shift, norm_weight.float(), norm_bias.float(), w1.float())
    d_norm_weight, d_norm_bias, d_w1 = (gradient.to(x.dtype) for gradient in gradients)
    d_b1, d_w2, d_b2 = d_shift.to(x.dtype), d_w2.t().to(x.dtype), d_b2.to(x.dtype)
    return dx, d_norm_weight, d_norm_bias, d_w1, d_b1, d_w2.contiguous(), d_b2


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)


def _options(launch: Launch, width: int, activation: str, gated: bool) -> dict[str, Any]:
    return {
        "ACTIVATION": activation,
        "GATED": gated,
        "BT": launch.rows,
        "BD": max(triton.next_power_of_2(width), 16),
        "BF": launch.units,
        "num_warps": launch.warps,
        "num_stages": launch.stages,
    }


@triton.jit
def forward_kernel(
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    b2_ptr,
    out_ptr,
    T,
    D,
    F,
    eps,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BF: tl.constexpr,
):
    """Rows of the output; grid: blocks of rows."""
    columns = tl.arange(0, BD)
    at, mask = row_block(tl.program_id(0), T, D, BT, BD)
    x, normed, _ = norm(x_ptr + at, mask, D, eps)
    n = scaled(normed, norm_weight_ptr, norm_bias_ptr, columns, D).to(w1_ptr.dtype.element_ty)
    total = tl.zeros((BT, BD), dtype=tl.float32)
    for start in range(0, F, BF):
        units = start + tl.arange(0, BF)
        h = hidden(n, first_weights(w1_ptr, units, columns, F, D), b1_ptr, units, F)
        a = act(h, ACTIVATION)
        if GATED:
            a *= hidden(n, first_weights(w1_ptr + F * D, units, columns, F, D), b1_ptr + F, units, F)
        w2 = second_weights(w2_ptr, units, columns, F, D)
        total = tl.dot(a.to(w2.dtype), tl.trans(w2), total, input_precision="ieee")
    b2 = tl.load(b2_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, x + total + b2[None, :], mask=mask)


@triton.jit
def backward_rows_kernel(
    grad_ptr,
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    dx_ptr,
    T,
    D,
    F,
    eps,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BF: tl.constexpr,
):
    """Gradient of the rows; grid: blocks of rows."""
    columns = tl.arange(0, BD)
    dtype: tl.constexpr = w1_ptr.dtype.element_ty
    at, mask = row_block(tl.program_id(0), T, D, BT, BD)
    _, normed, rstd = norm(x_ptr + at, mask, D, eps)
    n = scaled(normed, norm_weight_ptr, norm_bias_ptr, columns, D).to(dtype)
    dy = tl.load(grad_ptr + at, mask=mask, other=0.0)
    dn = tl.zeros((BT, BD), dtype=tl.float32)
    for start in range(0, F, BF):
        units = start + tl.arange(0, BF)
        w1 = first_weights(w1_ptr, units, columns, F, D)
        h = hidden(n, w1, b1_ptr, units, F)
        da = tl.dot(dy.to(dtype), second_weights(w2_ptr, units, columns, F, D), input_precision="ieee")
        if GATED:
            v1 = first_weights(w1_ptr + F * D, units, columns, F, D)
            value = hidden(n, v1, b1_ptr + F, units, F)
            dn = tl.dot((act(h, ACTIVATION) * da).to(dtype), v1, dn, input_precision="ieee")
            da *= value
        dn = tl.dot((slope(h, ACTIVATION) * da).to(dtype), w1, dn, input_precision="ieee")
    dn *= tl.load(norm_weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]
    along = tl.sum(dn * normed, axis=1) / D
    centred = dn - (tl.sum(dn, axis=1) / D)[:, None] - normed * along[:, None]
    tl.store(dx_ptr + at, dy.to(tl.float32) + rstd[:, None] * centred, mask=mask)


@triton.jit
def backward_weights_kernel(
    grad_ptr,
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    d_folded_ptr,
    d_shift_ptr,
    d_w2_ptr,
    d_b2_ptr,
    T,
    D,
    F,
    eps,
    P,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BF: tl.constexpr,
):
    """Gradients of the folded W1 and b1, of W2 (transposed) and b2, partial sums; grid: blocks of hidden units, P."""
    columns, part = tl.arange(0, BD), tl.program_id(1)
    dtype: tl.constexpr = w1_ptr.dtype.element_ty
    units = tl.program_id(0) * BF + tl.arange(0, BF)
    w1 = first_weights(w1_ptr, units, columns, F, D)
    v1 = first_weights(w1_ptr + F * D, units, columns, F, D) if GATED else w1
    w2 = second_weights(w2_ptr, units, columns, F, D)
    d_w1, d_b1 = tl.zeros((BF, BD), dtype=tl.float32), tl.zeros((BF,), dtype=tl.float32)
    d_v1, d_c1 = tl.zeros((BF, BD), dtype=tl.float32), tl.zeros((BF,), dtype=tl.float32)
    d_w2, d_b2 = tl.zeros((BF, BD), dtype=tl.float32), tl.zeros((BD,), dtype=tl.float32)
    for block in range(part, tl.cdiv(T, BT), P):
        at, mask = row_block(block, T, D, BT, BD)
        _, normed, _ = norm(x_ptr + at, mask, D, eps)
        n = scaled(normed, norm_weight_ptr, norm_bias_ptr, columns, D).to(dtype)
        dy = tl.load(grad_ptr + at, mask=mask, other=0.0)
        d_b2 += tl.sum(dy.to(tl.float32), axis=0)
        h = hidden(n, w1, b1_ptr, units, F)
        a = act(h, ACTIVATION)
        da = tl.dot(dy.to(dtype), w2, input_precision="ieee")
        if GATED:
            value = hidden(n, v1, b1_ptr + F, units, F)
            d_value = a * da
            d_v1 = tl.dot(tl.trans(d_value.to(dtype)), normed.to(dtype), d_v1, input_precision="ieee")
            d_c1 += tl.sum(d_value, axis=0)
            a *= value
            da *= value
        d_w2 = tl.dot(tl.trans(a.to(dtype)), dy.to(dtype), d_w2, input_precision="ieee")
        dh = slope(h, ACTIVATION) * da
        d_w1 = tl.dot(tl.trans(dh.to(dtype)), normed.to(dtype), d_w1, input_precision="ieee")
        d_b1 += tl.sum(dh, axis=0)
    first_rows = part.to(tl.int64) * F * (2 if GATED else 1)
    at, mask = units[:, None] * D + columns[None, :], (units < F)[:, None] & (columns < D)[None, :]
    tl.store(d_folded_ptr + first_rows * D + at, d_w1, mask=mask)
    tl.store(d_shift_ptr + first_rows + units, d_b1, mask=units < F)
    if GATED:
        tl.store(d_folded_ptr + (first_rows + F) * D + at, d_v1, mask=mask)
        tl.store(d_shift_ptr + first_rows + F + units, d_c1, mask=units < F)
    tl.store(d_w2_ptr + part.to(tl.int64) * F * D + at, d_w2, mask=mask)
    # Every block of units has summed up the same gradients of the output.
    tl.store(d_b2_ptr + part * D + columns, d_b2, mask=(columns < D) & (tl.program_id(0) == 0))


@triton.jit
def row_block(block, T, D, BT: tl.constexpr, BD: tl.constexpr):
    """Places of a block's numbers in [T, D], and which of them there are, [BT, BD]."""
    rows, columns = block * BT + tl.arange(0, BT), tl.arange(0, BD)
    return rows.to(tl.int64)[:, None] * D + columns[None, :], (rows < T)[:, None] & (columns < D)[None, :]


@triton.jit
def norm(x_ptrs, mask, D, eps):
    """Rows, normed rows without scale and shift (0 where there is none), [BT, BD]; one by their deviations, [BT]."""
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    centred = tl.where(mask, x - (tl.sum(x, axis=1) / D)[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / D + eps)
    return x, tl.where(mask, centred * rstd[:, None], 0.0), rstd


@triton.jit
def scaled(normed, norm_weight_ptr, norm_bias_ptr, columns, D):
    """Normed rows with scale and shift, [BT, BD]; 0 beyond D."""
    scale = tl.load(norm_weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    return normed * scale[None, :] + shift[None, :]


@triton.jit
def first_weights(w1_ptr, units, columns, F, D):
    """Rows of W1 [F, D], [BF, BD]; 0 beyond."""
    mask = (units < F)[:, None] & (columns < D)[None, :]
    return tl.load(w1_ptr + units[:, None] * D + columns[None, :], mask=mask, other=0.0)


@triton.jit
def second_weights(w2_ptr, units, columns, F, D):
    """Columns of W2 [D, F], [BD, BF]; 0 beyond."""
    mask = (columns < D)[:, None] & (units < F)[None, :]
    return tl.load(w2_ptr + columns[:, None] * F + units[None, :], mask=mask, other=0.0)


@triton.jit
def hidden(n, w1, b1_ptr, units, F):
    """n W1^T + b1 of some units, [BT, BF]; 0 beyond F."""
    b1 = tl.load(b1_ptr + units, mask=units < F, other=0.0).to(tl.float32)
    return tl.dot(n, tl.trans(w1), input_precision="ieee") + b1[None, :]


@triton.jit
def act(h, ACTIVATION: tl.constexpr):
    """act(h); of NaN it is NaN."""
    if ACTIVATION == "gelu":
        return 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
    elif ACTIVATION == "silu":
        return h / (1.0 + tl.exp(-h))
    else:
        return tl.where(h <= 0.0, 0.0, h)


@triton.jit
def slope(h, ACTIVATION: tl.constexpr):
    """act'(h); ReLU's at 0 is 0."""
    if ACTIVATION == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * h * h)
        return 0.5 * (1.0 + tl.erf(h * 0.7071067811865476)) + h * density
    elif ACTIVATION == "silu":
        sigmoid = 1.0 / (1.0 + tl.exp(-h))
        return sigmoid * (1.0 + h * (1.0 - sigmoid))
    else:
        return tl.where(h <= 0.0, 0.0, 1.0)
