"""The multi-task distillation loss as a registered operator: one node for autograd and torch.compile, closed backward.

Shape letters: N models, B examples, k tasks, L 1 where models share and N where they do not.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.multitask_distillation import cpu, reference
from kernels.multitask_distillation.given import SCHEMA, Given
from kernels.multitask_distillation.reference import at_least_float32, row_weights
from kernels.triton_path import check_gpu, on_device_of

NARROW = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = {"cpu": (*NARROW, torch.float64), "cuda": NARROW}


def multitask_distillation(
    logits: Tensor,
    labels: Tensor | None = None,
    label_mask: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    *,
    task_weights: Tensor | None = None,
    label_weight: float = 1.0,
    soft_weight: float = 0.0,
    logit_weight: float = 0.0,
    label_scaling: float = 1.0,
    adapter_scale: Tensor | None = None,
    adapter_shift: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with labels, cross-entropy with a teacher's soft labels, squared error of its logits.

    For each task the mean over its rows, summed over tasks: with z the logits, t the teacher's, w a task's weight, m a
    mask, c = w m / sum of m, and q = min(label_scaling * sigmoid(t), 1),

        sum of c [label_weight BCE(z, y) + soft_weight BCE(a z + b, q) + logit_weight (z - t)^2],

    where c of the first term is that of the labels' mask and c of the others that of the teacher's. A task without a
    row adds exactly 0. A term whose weight is 0 is not computed and needs no arguments.

    Args:
        logits: z, [B, k], or [N, B, k] of N models that share all else; float32, float16,
            bfloat16, on a CPU also float64. The gradient reaches these and a and b alone.
        labels: y, [B, k], labels, probabilities or unbiased estimates of labels; their range is not checked. With N
            models also [N, B, k], each its own.
        label_mask: bool [B, k], the rows that count for a task. What stands elsewhere weighs 0 and must be finite.
        teacher_logits, teacher_mask: t and its mask, as labels and theirs.
        task_weights: w, [k]; None for 1.
        label_weight, soft_weight, logit_weight: of the terms, 0 or more.
        label_scaling: factor on the teacher's probability, 0 or more (ExFM's alpha).
        adapter_scale, adapter_shift: a and b, [k]; with N models also [N, k]; None for both for 1 and 0.

    Returns:
        A scalar, or [N]; float32, of float64 logits float64. Repeats are equal bit by bit.

    Raises:
        ValueError: shapes, dtypes, devices, weights or missing arguments that do not fit.

    Source: ExFM (arXiv:2502.17494) for soft labels and their scaling, Hinton et al. 2015 (arXiv:1503.02531, 2.1) for
        logits; all terms in one pass with a closed gradient: ours.
    """
    _check_weights(label_weight, soft_weight, logit_weight, label_scaling)
    _check_logits(logits)
    if label_weight:
        _check_signal("labels", "label_mask", labels, label_mask, logits)
    if soft_weight or logit_weight:
        _check_signal("teacher_logits", "teacher_mask", teacher_logits, teacher_mask, logits)
    if task_weights is not None or adapter_scale is not None or adapter_shift is not None:
        _check_per_task(logits, task_weights, adapter_scale, adapter_shift)
    if _is_plain(logits):
        return reference.multitask_distillation(
            logits,
            labels,
            label_mask,
            teacher_logits,
            teacher_mask,
            task_weights=task_weights,
            label_weight=label_weight,
            soft_weight=soft_weight,
            logit_weight=logit_weight,
            label_scaling=label_scaling,
            adapter_scale=adapter_scale,
            adapter_shift=adapter_shift,
        )
    z = _as_taken(logits)
    wide = torch.promote_types(logits.dtype, torch.float32)
    losses = fused(
        z if z.dim() == 3 else z.unsqueeze(0),
        *_signal(labels, label_mask, task_weights, label_weight, wide),
        *_signal(
            teacher_logits, teacher_mask, task_weights, 1.0 if soft_weight or logit_weight else 0.0, wide
        ),
        *(None if x is None else x.to(wide).view(-1, x.shape[-1]) for x in (adapter_scale, adapter_shift)),
        soft_weight,
        logit_weight,
        label_scaling,
    )
    return losses if logits.dim() == 3 else losses.squeeze(0)


def _is_plain(logits: Tensor) -> bool:
    """Whether plain PyTorch is the fast path: of one model on a CPU, where its cross-entropy has a closed gradient."""
    return logits.device.type == "cpu" and logits.dim() == 2


def _as_taken(logits: Tensor) -> Tensor:
    """The logits in a dtype that the path of their device takes."""
    return logits if logits.device.type == "cuda" else at_least_float32(logits)


def _check_weights(label: float, soft: float, logit: float, scaling: float) -> None:
    named = (
        ("label_weight", label),
        ("soft_weight", soft),
        ("logit_weight", logit),
        ("label_scaling", scaling),
    )
    for name, value in named:
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: got {value}, allowed: a finite number, 0 or more")
    if not (label or soft or logit):
        raise ValueError(
            "label_weight, soft_weight, logit_weight: got 0 for all, allowed: one of them above 0"
        )


def _check_logits(logits: Tensor) -> None:
    device = logits.device.type
    if device not in DTYPES:
        raise ValueError(f"logits: got device '{logits.device}', allowed: {', '.join(DTYPES)}")
    if logits.dim() not in (2, 3) or not logits.shape[-1]:
        raise ValueError(
            f"logits: got shape {tuple(logits.shape)}, allowed: [B, k] or [N, B, k], k at least 1"
        )
    if logits.dtype not in DTYPES[device]:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES[device])
        raise ValueError(f"logits: got {logits.dtype}, allowed on '{device}': {names}")


def _check_signal(
    name: str, mask_name: str, values: Tensor | None, mask: Tensor | None, logits: Tensor
) -> None:
    """Values and mask of a term that is wanted."""
    shape, device = logits.shape[-2:], logits.device
    for label, tensor, shapes in ((name, values, (shape, logits.shape)), (mask_name, mask, (shape,))):
        if tensor is None:
            raise ValueError(
                f"{label}: got None, allowed: {tuple(shape)}, because a term that needs it has a weight"
            )
        if tensor.shape not in shapes or tensor.device != device:
            raise ValueError(
                f"{label}: got shape {tuple(tensor.shape)} on '{tensor.device}', "
                f"allowed: {' or '.join(dict.fromkeys(str(tuple(s)) for s in shapes))} on '{device}', as the logits"
            )
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"{mask_name}: got {mask.dtype}, allowed: torch.bool")


def _check_per_task(
    logits: Tensor, task_weights: Tensor | None, adapter_scale: Tensor | None, adapter_shift: Tensor | None
) -> None:
    if (adapter_scale is None) != (adapter_shift is None):
        raise ValueError("adapter_scale, adapter_shift: got one of them, allowed: both or none")
    shapes = {logits.shape[-1:], logits.shape[:-2] + logits.shape[-1:]}
    named = {"adapter_scale": adapter_scale, "adapter_shift": adapter_shift}
    for name, tensor in ({"task_weights": task_weights} | named).items():
        allowed = {logits.shape[-1:]} if name == "task_weights" else shapes
        if tensor is not None and (tensor.shape not in allowed or tensor.device != logits.device):
            raise ValueError(
                f"{name}: got shape {tuple(tensor.shape)} on '{tensor.device}', "
                f"allowed: {' or '.join(str(tuple(s)) for s in sorted(allowed))} on '{logits.device}'"
            )


def _signal(
    values: Tensor | None, mask: Tensor | None, task_weights: Tensor | None, weight: float, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Values [L, B, k] and row weights c [1, B, k] as the operator takes them; None without their term."""
    if not weight or values is None or mask is None:
        return None, None
    weights = row_weights(mask, task_weights, weight, dtype)
    values = values.detach().to(dtype)
    return values if values.dim() == 3 else values.unsqueeze(0), weights.to(dtype).unsqueeze(0)


def _path(logits: Tensor) -> ModuleType:
    """The implementation for a tensor's device; that of a GPU needs triton, which a CPU does without."""
    if logits.device.type == "cuda":
        check_gpu("multitask_distillation", logits.device)
        from kernels.multitask_distillation import gpu

        return gpu
    return cpu


@torch.library.custom_op(
    "gem_distill::multitask_distillation",
    mutates_args=(),
    device_types=tuple(DTYPES),
    schema=f"({SCHEMA}) -> Tensor",
)
def fused(*arguments: Any) -> Tensor:
    given = Given(*arguments)
    with on_device_of(given.logits):
        return _path(given.logits).forward(given)


@fused.register_fake
def _(logits: Tensor, *others: Any) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.promote_types(logits.dtype, torch.float32))


@torch.library.custom_op(
    "gem_distill::multitask_distillation_backward",
    mutates_args=(),
    device_types=tuple(DTYPES),
    schema=f"(Tensor grad, {SCHEMA}) -> (Tensor, Tensor, Tensor)",
)
def fused_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    given = Given(*arguments)
    with on_device_of(given.logits):
        return _path(given.logits).backward(grad, given)


@fused_backward.register_fake
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    given = Given(*arguments)
    adapter = (
        grad.new_empty(0 if x is None else x.shape) for x in (given.adapter_scale, given.adapter_shift)
    )
    return given.logits.new_empty(given.logits.shape), *adapter


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, soft_weight, logit_weight, label_scaling = inputs
    ctx.save_for_backward(*tensors)
    ctx.settings = soft_weight, logit_weight, label_scaling


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dz, d_scale, d_shift = fused_backward(grad, *ctx.saved_tensors, *ctx.settings)
    adapter = (d_scale, d_shift) if ctx.saved_tensors[5] is not None else (None, None)
    return dz, None, None, None, None, *adapter, None, None, None


fused.register_autograd(_backward, setup_context=_save)


@fused.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], logits: Tensor, *others: Any) -> tuple[Tensor, int]:
    """Models side by side in one call, whichever arguments are each call's own."""
    calls = info.batch_size
    z = logits.expand(calls, *logits.shape) if in_dims[0] is None else logits.movedim(in_dims[0], 0)
    models = z.shape[1]
    arguments = [
        _side_by_side(x, dim, calls, models) if isinstance(x, Tensor) else x
        for x, dim in zip(others, in_dims[1:], strict=True)
    ]
    return fused(z.flatten(0, 1), *arguments).view(calls, models), 0


def _side_by_side(x: Tensor, dim: int | None, calls: int, models: int) -> Tensor:
    """[L, ...] of each call as one tensor for all models of all calls; what all of them share stays one."""
    if dim is None and len(x) == 1:
        return x
    of_calls = x.expand(calls, *x.shape) if dim is None else x.movedim(dim, 0)
    return of_calls.expand(calls, models, *of_calls.shape[2:]).flatten(0, 1)


# Without these the CPU path's products would be autocast, one by one; a GPU's kernels know no autocast.
fused.register_autocast("cpu", torch.float32)
fused_backward.register_autocast("cpu", torch.float32)
