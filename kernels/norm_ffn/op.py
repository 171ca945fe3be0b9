"""The feed-forward block as a registered operator: one node for autograd and torch.compile, closed backward.

Shape letters: T rows, D width, F hidden units.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.norm_ffn import cpu
from kernels.triton_path import check_gpu, on_device_of

ACTIVATIONS = ("gelu", "relu", "silu")
DTYPES = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}
GPU_WIDTH = 128
"""Widest rows of the GPU kernels, which keep whole rows in registers."""
_NAMES = ("x", "norm_weight", "norm_bias", "w1", "b1", "w2", "b2")


def norm_ffn(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    activation: str = "gelu",
    gated: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """Layer norm, feed-forward block and residual: x + W2 act(W1 LN(x) + b1) + b2.

    Saved for the backward pass is x alone. Under autocast the products, and the hidden units between them, are in
    autocast's dtype, all else and the result in float32, as if each part were autocast by itself.

    Args:
        x: [T, D], D at most 128 on a GPU; float32 or float64, on a GPU float32, float16 or bfloat16.
        norm_weight, norm_bias: [D], dtype and device of x as all that follow, of the layer norm.
        w1, b1: [F, D] and [F]; gated [2 F, D] and [2 F], the gate's first.
        w2, b2: [D, F] and [D].
        activation: `gelu` (the exact one), `relu` or `silu`.
        gated: hidden units are act(g) * u, with [g, u] = W1 LN(x) + b1: a gated linear unit.
        eps: added to the variance, at least 0.

    Returns:
        [T, D].

    Raises:
        ValueError: an unknown activation, or shapes, dtypes, a device or an eps that do not fit.

    Source: Vaswani et al. 2017 (3.3) before its norm, as in Xiong et al. 2020 (arXiv:2002.04745); gated: Shazeer 2020
        (arXiv:2002.05202); the backward pass with nothing saved but x: ours.
    """
    tensors = (x, norm_weight, norm_bias, w1, b1, w2, b2)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got '{activation}', allowed: {', '.join(ACTIVATIONS)}")
    if not eps >= 0:
        raise ValueError(f"eps: got {eps}, allowed: at least 0")
    _check_shapes(tensors, gated)
    dtype = _check_dtypes(tensors)
    return ffn(*tensors, activation, gated, eps, _products(x, dtype))


def _check_shapes(tensors: tuple[Tensor, ...], gated: bool) -> None:
    x, _, _, _, _, w2, _ = tensors
    if x.dim() != 2 or w2.dim() != 2 or not x.shape[1] or not w2.shape[1]:
        raise ValueError(
            f"x, w2: got shapes {tuple(x.shape)}, {tuple(w2.shape)}, "
            "allowed: [T, D], [D, F] with D and F of at least 1"
        )
    if x.device.type == "cuda" and x.shape[1] > GPU_WIDTH:
        raise ValueError(f"x: got width {x.shape[1]}, allowed on a GPU: at most {GPU_WIDTH}")
    width, units = x.shape[1], w2.shape[1]
    first = 2 * units if gated else units
    allowed = [(width,), (width,), (first, width), (first,), (width, units), (width,)]
    for name, tensor, shape in zip(_NAMES[1:], tensors[1:], allowed, strict=True):
        if tensor.shape != shape:
            raise ValueError(
                f"{name}: got shape {tuple(tensor.shape)}, allowed: {shape}, with x {tuple(x.shape)}, "
                f"w2 {tuple(w2.shape)} and gated={gated}"
            )


def _check_dtypes(tensors: tuple[Tensor, ...]) -> torch.dtype:
    """The one dtype in which the operator gets its tensors."""
    names, device = ", ".join(_NAMES), tensors[0].device
    if device.type not in DTYPES:
        raise ValueError(f"x: got device '{device}', allowed: {', '.join(DTYPES)}")
    if any(tensor.device != device for tensor in tensors):
        raise ValueError(
            f"{names}: got devices {', '.join(sorted({str(t.device) for t in tensors}))}, allowed: one for all"
        )
    dtypes, allowed = {_dtype(tensor) for tensor in tensors}, DTYPES[device.type]
    if len(dtypes) != 1 or not dtypes <= set(allowed):
        raise ValueError(
            f"{names}: got {', '.join(sorted(map(str, dtypes)))}, "
            f"allowed: one of {', '.join(str(d).removeprefix('torch.') for d in allowed)} for all"
        )
    return dtypes.pop()


def _dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which the operator gets a tensor."""
    narrow = tensor.dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if narrow and torch.is_autocast_enabled(tensor.device.type) else tensor.dtype


def _products(x: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The dtype of products and hidden units."""
    device = x.device.type
    return (
        torch.get_autocast_dtype(device)
        if dtype == torch.float32 and torch.is_autocast_enabled(device)
        else dtype
    )


def _path(x: Tensor) -> ModuleType:
    """The implementation for a tensor's device; that of a GPU needs triton, which a CPU does without."""
    if x.device.type == "cuda":
        check_gpu("norm_ffn", x.device)
        from kernels.norm_ffn import gpu

        return gpu
    return cpu


@torch.library.custom_op("gem_distill::norm_ffn", mutates_args=(), device_types=tuple(DTYPES))
def ffn(
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
    with on_device_of(x):
        return _path(x).forward(x, norm_weight, norm_bias, w1, b1, w2, b2, activation, gated, eps, products)


@ffn.register_fake
def _(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("gem_distill::norm_ffn_backward", mutates_args=(), device_types=tuple(DTYPES))
def ffn_backward(
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
    with on_device_of(x):
        return _path(x).backward(
            grad, x, norm_weight, norm_bias, w1, b1, w2, activation, gated, eps, products
        )


@ffn_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    b2 = grad.new_empty(grad.shape[1])
    return (*(t.new_empty(t.shape) for t in (x, norm_weight, norm_bias, w1, b1, w2)), b2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, activation, gated, eps, products = inputs
    ctx.save_for_backward(*tensors)
    ctx.settings = activation, gated, eps, products


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*ffn_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None)


ffn.register_autograd(_backward, setup_context=_save)
# What is narrow comes in as float32; which products are narrow is an argument.
for _device in DTYPES:
    ffn.register_autocast(_device, torch.float32)
    ffn_backward.register_autocast(_device, torch.float32)
