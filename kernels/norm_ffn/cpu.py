"""CPU path of the feed-forward block: as many rows at a time as keep their hidden units in the cache.

Nothing is saved but x: the backward pass computes the hidden units again, which costs less than to read them back from
memory. A chunk of rows is a few large products, so that the loop over chunks costs nothing.

Shape letters: T rows, D width, F hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.norm_ffn.folding import fold, unfold

aten = torch.ops.aten
HIDDEN_BYTES = 2**20
"""Most memory of a chunk's hidden units: few calls, and what is done to them finds them in the caches."""


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
    """x + W2 a + b2 [T, D]; `products` is the dtype of hidden units and products, all else is in x's."""
    folded, shift = (t.to(products) for t in fold(norm_weight, norm_bias, w1, b1))
    w2, chunk = w2.to(products), _chunk(x, w1, products)
    hidden = _buffer(chunk, len(w1), products)
    active = _buffer(chunk, w2.shape[1], products) if gated else hidden
    out = x + b2
    for rows, y in zip(x.split(chunk), out.split(chunk), strict=True):
        normed, _, _ = _norm(rows, eps)
        h = torch.addmm(shift, normed.to(products), folded.t(), out=hidden[: len(rows)])
        _add_product(y, _activate(h, active[: len(rows)], activation, gated), w2.t())
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
    """Gradients of x, the norm's weight and bias, W1, b1, W2 and b2 from that of the output [T, D].

    da = W2^T dy, dh = act'(h) da, dW2 = sum of dy a^T, dW1 = sum of dh n^T, dn = W1^T dh, and through the norm to dx.
    """
    folded, shift = (t.to(products) for t in fold(norm_weight, norm_bias, w1, b1))
    narrow_w2, chunk, units = w2.to(products), _chunk(x, w1, products), w2.shape[1]
    # Products with an expanded gradient, such as a sum's, are many times slower.
    grad, dx = grad.contiguous(), torch.empty_like(x)
    d_folded, d_shift, d_w2 = torch.zeros_like(w1), torch.zeros_like(b1), torch.zeros_like(w2)
    hidden, active, d_active = (_buffer(chunk, width, products) for width in (len(w1), units, units))
    for rows, dy, out in zip(x.split(chunk), grad.split(chunk), dx.split(chunk), strict=True):
        count = len(rows)
        normed, *statistics = _norm(rows, eps)
        n, narrow_dy = normed.to(products), dy.to(products)
        h = torch.addmm(shift, n, folded.t(), out=hidden[:count])
        _add_product(d_w2, narrow_dy.t(), _activate(h, active[:count], activation, gated))
        da = torch.mm(narrow_dy, narrow_w2, out=d_active[:count])
        dh = _activate_backward(da, h, active[:count], activation, gated)
        _add_product(d_folded, dh.t(), n)
        d_shift += dh.sum(0, dtype=x.dtype)
        torch.add(_norm_backward(torch.mm(dh, folded).to(x.dtype), rows, *statistics), dy, out=out)
    d_norm_weight, d_norm_bias, d_w1 = unfold(d_folded, d_shift, norm_weight, norm_bias, w1)
    return dx, d_norm_weight, d_norm_bias, d_w1, d_shift, d_w2, grad.sum(0)


def _chunk(x: Tensor, w1: Tensor, products: torch.dtype) -> int:
    """Rows of a chunk, at least one and at most as many as there are."""
    return max(min(HIDDEN_BYTES // max(len(w1) * products.itemsize, 1), len(x)), 1)


def _buffer(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(rows, width, dtype=dtype)


def _norm(rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normed rows without scale and shift, their means, and one by their standard deviations."""
    return torch.native_layer_norm(rows, rows.shape[1:], None, None, eps)


def _norm_backward(grad: Tensor, rows: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    wanted = [True, False, False]
    return aten.native_layer_norm_backward(grad, rows, rows.shape[1:], mean, rstd, None, None, wanted)[0]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, added up in total's dtype."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += torch.mm(a, b)


def _activate(h: Tensor, out: Tensor, activation: str, gated: bool) -> Tensor:
    """act(h) in `out`, which may be h; gated, act(g) * u."""
    if not gated:
        return _act(h, out, activation)
    gate, value = h.chunk(2, dim=1)
    return _act(gate, out, activation).mul_(value)


def _activate_backward(da: Tensor, h: Tensor, spare: Tensor, activation: str, gated: bool) -> Tensor:
    """dh from da and h, whose memory it takes; `spare` is like da."""
    if not gated:
        return _act_backward(da, h, h, activation)
    gate, value = h.chunk(2, dim=1)
    d_value = _act(gate, spare, activation).mul_(da)
    _act_backward(da.mul_(value), gate, gate, activation)
    value.copy_(d_value)
    return h


def _act(h: Tensor, out: Tensor, activation: str) -> Tensor:
    operators: dict[str, Any] = {"gelu": aten.gelu, "relu": aten.relu, "silu": aten.silu}
    return operators[activation].out(h, out=out)


def _act_backward(grad: Tensor, h: Tensor, out: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return aten.threshold_backward.grad_input(grad, h, 0, grad_input=out)
    operator = aten.gelu_backward if activation == "gelu" else aten.silu_backward
    return operator.grad_input(grad, h, grad_input=out)
