"""Wukong's interactions as a registered operator: one node for autograd and torch.compile, closed backward.

Shape letters: B examples, N embeddings per example, D their width, K rank, L compressed embeddings.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.triton_path import check_gpu, on_device_of
from kernels.wukong_fm import cpu

DTYPES = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}
GPU_SIZES = {"N": 128, "K": 32, "L": 128}
"""Most embeddings, rank and compressed embeddings of the GPU kernels, which keep an example's in registers."""


def wukong_fm(
    x: Tensor,
    y: Tensor,
    w: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None]:
    """Factorization machine of low rank, X (X^T Y), and optionally the linear compression block, W X.

    With a norm the interactions leave normed over all N K numbers of an example, as Wukong's MLP takes them; without
    they leave as they are. Saved for the backward pass are the arguments alone, and on a CPU the norm's input.

    Args:
        x: [B, N, D], the embeddings of each example; float32 or float64, on a GPU float32, float16 or bfloat16.
        y: [N, K], the projection of the N columns of X X^T to K; [B, N, K] for one of each example's own.
        w: [L, N], weights of the linear compression; None leaves it out.
        norm_weight, norm_bias: [N K], scale and shift of the norm; None for both leaves it out.
        eps: added to the variance in the norm, at least 0.

    All have the dtype and the device of x. A GPU takes N and L up to 128 and K up to 32.

    Returns:
        Interactions [B, N, K], and compressed embeddings [B, L, D] (None without w).

    Under autocast all are computed and returned in float32, whatever narrower dtypes come in: the products are a
    small part of a layer, and squares of embeddings are where bfloat16 loses most.

    Raises:
        ValueError: shapes, dtypes, a device or an eps that do not fit.

    Source: Zhang et al. 2024, Wukong (arXiv:2403.02545), optimised FM and LCB; backward: ours.
    """
    _check_shapes(x, y, w)
    _check_norm(x, y, norm_weight, norm_bias, eps)
    _check_kind({"x": x, "y": y, "w": w, "norm_weight": norm_weight, "norm_bias": norm_bias})
    interactions, compressed, _ = fm_lcb(x, y, w, norm_weight, norm_bias, eps)
    return interactions, None if w is None else compressed


def _check_shapes(x: Tensor, y: Tensor, w: Tensor | None) -> None:
    if x.dim() != 3 or y.shape[:-1] not in (x.shape[1:2], x.shape[:2]):
        raise ValueError(
            f"x, y: got shapes {tuple(x.shape)}, {tuple(y.shape)}, allowed: [B, N, D], [N, K] or [B, N, K]"
        )
    if w is not None and (w.dim() != 2 or w.shape[1] != x.shape[1]):
        raise ValueError(f"w: got shape {tuple(w.shape)}, allowed: [L, {x.shape[1]}]")
    sizes = {"N": x.shape[1], "K": y.shape[-1], "L": 0 if w is None else w.shape[0]}
    for name, most in GPU_SIZES.items():
        if x.device.type == "cuda" and sizes[name] > most:
            raise ValueError(f"{name}: got {sizes[name]}, allowed on a GPU: at most {most}")


def _check_norm(
    x: Tensor, y: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float
) -> None:
    numbers = x.shape[1] * y.shape[-1]
    for name, tensor, other in (
        ("norm_weight", norm_weight, norm_bias),
        ("norm_bias", norm_bias, norm_weight),
    ):
        if tensor is None and other is not None:
            raise ValueError(f"{name}: got None beside the other one, allowed: None for both, or [{numbers}]")
        if tensor is not None and tensor.shape != (numbers,):
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, allowed: ({numbers},), N K")
    if not eps >= 0:
        raise ValueError(f"eps: got {eps}, allowed: at least 0")


def _check_kind(tensors: dict[str, Tensor | None]) -> None:
    """One dtype and one device for all that are there."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    names, device = ", ".join(given), given["x"].device
    if device.type not in DTYPES:
        raise ValueError(f"x: got device '{device}', allowed: {', '.join(DTYPES)}")
    if any(tensor.device != device for tensor in given.values()):
        devices = ", ".join(sorted({str(tensor.device) for tensor in given.values()}))
        raise ValueError(f"{names}: got devices {devices}, allowed: one for all")
    dtypes, allowed = {_dtype(tensor) for tensor in given.values()}, DTYPES[device.type]
    if len(dtypes) != 1 or not dtypes <= set(allowed):
        raise ValueError(
            f"{names}: got {', '.join(sorted(map(str, dtypes)))}, "
            f"allowed: one of {', '.join(str(d).removeprefix('torch.') for d in allowed)} for all"
        )


def _dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which the operator gets a tensor."""
    narrow = tensor.dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if narrow and torch.is_autocast_enabled(tensor.device.type) else tensor.dtype


def _path(x: Tensor) -> ModuleType:
    """The implementation for a tensor's device; that of a GPU needs triton, which a CPU does without."""
    if x.device.type == "cuda":
        check_gpu("wukong_fm", x.device)
        from kernels.wukong_fm import gpu

        return gpu
    return cpu


@torch.library.custom_op("gem_distill::wukong_fm_lcb", mutates_args=(), device_types=tuple(DTYPES))
def fm_lcb(
    x: Tensor, y: Tensor, w: Tensor | None, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    with on_device_of(x):
        return _path(x).forward(x, y, w, norm_weight, norm_bias, eps)


@fm_lcb.register_fake
def _(
    x: Tensor, y: Tensor, w: Tensor | None, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = (x.shape[0], x.shape[1], y.shape[-1])
    compressed = x.new_empty(0) if w is None else x.new_empty(x.shape[0], w.shape[0], x.shape[2])
    kept = x.device.type == "cpu" and norm_weight is not None
    return x.new_empty(pairs), compressed, x.new_empty(pairs if kept else 0)


@torch.library.custom_op("gem_distill::wukong_fm_lcb_backward", mutates_args=(), device_types=tuple(DTYPES))
def fm_lcb_backward(
    grad_p: Tensor,
    grad_l: Tensor,
    p: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    with on_device_of(x):
        return _path(x).backward(grad_p, grad_l, p, x, y, w, norm_weight, norm_bias, eps)


@fm_lcb_backward.register_fake
def _(
    grad_p: Tensor,
    grad_l: Tensor,
    p: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, ...]:
    optional = (x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (w, norm_weight, norm_bias))
    return x.new_empty(x.shape), y.new_empty(y.shape), *optional


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.eps = inputs
    _, _, p = output
    ctx.mark_non_differentiable(p)
    ctx.save_for_backward(p, *tensors)


def _backward(ctx: Any, grad_p: Tensor, grad_l: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    p, x, y, *optional = ctx.saved_tensors
    dx, dy, *found = fm_lcb_backward(grad_p, grad_l, p, x, y, *optional, ctx.eps)
    given = (None if t is None else grad for t, grad in zip(optional, found, strict=True))
    return dx, dy, *given, None


fm_lcb.register_autograd(_backward, setup_context=_save)
# Without these the products inside would be autocast, one by one, and return another dtype than announced.
for _device in DTYPES:
    fm_lcb.register_autocast(_device, torch.float32)
    fm_lcb_backward.register_autocast(_device, torch.float32)
