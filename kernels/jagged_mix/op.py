"""Jagged mixing as a registered operator: one node for autograd and torch.compile, closed backward.

Shape letters: B rows (examples), T tokens of all rows, M numbers per token, D width.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.jagged_mix import cpu
from kernels.triton_path import check_gpu, on_device_of

DTYPES = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}
GPU_SIZES = {"M": 64, "D": 128}
"""Most numbers per token and width of the GPU kernels, which keep a matrix in registers."""


def jagged_mix(values: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Y_t = v_t A_b: the tokens of a row times the row's own matrix.

    Args:
        values: [T, M]; float32 or float64, on a GPU float32, float16 or bfloat16.
        matrices: [B, M, D], dtype and device of values. A GPU takes M up to 64 and D up to 128.
        offsets: int64 [B + 1]; the tokens of row b lie at offsets[b]:offsets[b + 1]. On a GPU their values are not
            read, so as not to wait for it: they are trusted to ascend, and tokens that lie in no row give zeros.

    Returns:
        [T, D]. A matrix whose row is empty gets zero gradient.

    Under autocast it is computed and returned in float32, whatever narrower dtypes come in.

    Raises:
        ValueError: shapes, dtypes, a device or offsets that do not fit.

    Source: ours; it is PFFN of InterFormer (arXiv:2411.09852) once its two factors are kept apart.
    """
    _check(values, matrices, offsets)
    return mix(values, matrices, offsets)


def _check(values: Tensor, matrices: Tensor, offsets: Tensor) -> None:
    if values.dim() != 2 or matrices.dim() != 3 or values.shape[1] != matrices.shape[1]:
        raise ValueError(
            f"values, matrices: got shapes {tuple(values.shape)}, {tuple(matrices.shape)}, "
            "allowed: [T, M], [B, M, D]"
        )
    if offsets.shape != (len(matrices) + 1,) or offsets.dtype != torch.int64:
        raise ValueError(
            f"offsets: got {offsets.dtype} {tuple(offsets.shape)}, allowed: torch.int64 ({len(matrices) + 1},)"
        )
    device = values.device
    if device.type not in DTYPES:
        raise ValueError(f"values: got device '{device}', allowed: {', '.join(DTYPES)}")
    if matrices.device != device or offsets.device != device:
        raise ValueError(
            f"matrices, offsets: got devices '{matrices.device}', '{offsets.device}', "
            f"allowed: that of values, '{device}'"
        )
    dtypes, allowed = {_dtype(values), _dtype(matrices)}, DTYPES[device.type]
    if len(dtypes) != 1 or not dtypes <= set(allowed):
        raise ValueError(
            f"values, matrices: got {values.dtype}, {matrices.dtype}, "
            f"allowed: one of {', '.join(str(d).removeprefix('torch.') for d in allowed)} for both"
        )
    for (name, most), size in zip(GPU_SIZES.items(), matrices.shape[1:], strict=True):
        if device.type == "cuda" and size > most:
            raise ValueError(f"{name}: got {size}, allowed on a GPU: at most {most}")


def _dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which the operator gets a tensor."""
    narrow = tensor.dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if narrow and torch.is_autocast_enabled(tensor.device.type) else tensor.dtype


def _path(values: Tensor) -> ModuleType:
    """The implementation for a tensor's device; that of a GPU needs triton, which a CPU does without."""
    if values.device.type == "cuda":
        check_gpu("jagged_mix", values.device)
        from kernels.jagged_mix import gpu

        return gpu
    return cpu


def _check_values(values: Tensor, offsets: Tensor) -> None:
    found = offsets.numpy()  # half the time of a tensor's comparison
    if found[0] != 0 or found[-1] != len(values) or (found[1:] < found[:-1]).any():
        raise ValueError(
            f"offsets: got {found[0]} ... {found[-1]}, allowed: ascending from 0 to the number of tokens, {len(values)}"
        )


@torch.library.custom_op("gem_distill::jagged_mix", mutates_args=(), device_types=tuple(DTYPES))
def mix(values: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    if values.device.type == "cpu":
        _check_values(values, offsets)
    with on_device_of(values):
        return _path(values).forward(values, matrices, offsets)


@mix.register_fake
def _(values: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    return values.new_empty(values.shape[0], matrices.shape[2])


@torch.library.custom_op("gem_distill::jagged_mix_backward", mutates_args=(), device_types=tuple(DTYPES))
def mix_backward(grad: Tensor, values: Tensor, matrices: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    with on_device_of(values):
        return _path(values).backward(grad, values, matrices, offsets)


@mix_backward.register_fake
def _(grad: Tensor, values: Tensor, matrices: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape), matrices.new_empty(matrices.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    d_values, d_matrices = mix_backward(grad, *ctx.saved_tensors)
    return d_values, d_matrices, None


mix.register_autograd(_backward, setup_context=_save)
# Without these the sums inside would see the narrow dtypes, and return another one than announced.
for _device in DTYPES:
    mix.register_autocast(_device, torch.float32)
    mix_backward.register_autocast(_device, torch.float32)
