"""Triton path of the multi-task distillation loss: each pass reads every number once, and none is saved.

A program takes some rows of one model through all terms; what models share comes from the cache for all but the first.
Losses, and the gradients of the adapters' scale and shift, are parts of each program that are added up in a fixed
order, so that repeats are equal bit by bit. All is computed in float32.

Shape letters: N models, B examples, K tasks, P parts of a model's sum, BR and BK sizes of a program's block (BK covers
K), L 1 where models share and N where they do not.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.multitask_distillation.given import Given

NUMBERS = 512
"""Of a program's block, about: four for each thread of four warps."""


def forward(given: Given) -> Tensor:
    """As `kernels.multitask_distillation.cpu.forward`; float32."""
    models, rows, tasks = given.logits.shape
    options = constants(tasks, given.soft_weight, given.logit_weight)
    parts = triton.cdiv(rows, options["BR"])
    losses = given.logits.new_empty(models, parts, dtype=torch.float32)
    if losses.numel():
        forward_kernel[(parts, models)](*_read(given), losses, rows, parts, *_factors(given), **options)
    return losses.sum(1)


def backward(grad: Tensor, given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.multitask_distillation.cpu.backward`."""
    models, rows, tasks = given.logits.shape
    options = constants(tasks, given.soft_weight, given.logit_weight)
    parts = triton.cdiv(rows, options["BR"])
    dz = torch.empty_like(given.logits, memory_format=torch.contiguous_format)
    adapter = given.adapter_scale, given.adapter_shift
    size = (models, parts, tasks)
    sums = [x.new_empty(size) if x is not None and given.soft_weight else None for x in adapter]
    if dz.numel():
        written = dz, *sums
        backward_kernel[(parts, models)](
            grad.contiguous(), *_read(given), *written, rows, parts, *_factors(given), **options
        )
    d_scale, d_shift = (_summed(part, x, given.logits) for part, x in zip(sums, adapter, strict=True))
    return dz, d_scale, d_shift


def _pair(first: Tensor | None, second: Tensor | None) -> tuple[Tensor | None, Tensor | None, int]:
    """Both [L, ...] with one L, contiguous, and how far apart two models' parts of them lie; 0 where they share."""
    if first is None or second is None:
        return None, None, 0
    if len(first) != len(second):
        first, second = torch.broadcast_tensors(first, second)
    first, second = first.contiguous(), second.contiguous()
    return first, second, first.stride(0) if len(first) > 1 else 0


def _read(given: Given) -> tuple[Tensor | int | None, ...]:
    """What the kernels read: tensors, then the distances."""
    pairs = (
        _pair(given.labels, given.label_weights),
        _pair(given.teacher_logits, given.teacher_weights),
        _pair(given.adapter_scale, given.adapter_shift),
    )
    tensors = [tensor for first, second, _ in pairs for tensor in (first, second)]
    return given.logits.contiguous(), *tensors, *(step for _, _, step in pairs)


def _factors(given: Given) -> tuple[float, float, float]:
    return given.soft_weight, given.logit_weight, given.label_scaling


def _summed(parts: Tensor | None, like: Tensor | None, logits: Tensor) -> Tensor:
    """The gradient of what is [L, K] from [N, P, K]; 0 of what no term reads, empty of what is not there."""
    if parts is None or like is None:
        return logits.new_zeros(0 if like is None else like.shape, dtype=torch.float32)
    return parts.sum((0, 1) if len(like) == 1 else 1).view(like.shape)


def constants(tasks: int, soft_weight: float, logit_weight: float) -> dict[str, Any]:
    """What a kernel is compiled for: K, the teacher's terms that are wanted, blocks, and warps of a program."""
    columns = triton.next_power_of_2(tasks)
    blocks = {"BR": max(NUMBERS // columns, 1), "BK": columns}
    return {"K": tasks, "SOFT": soft_weight > 0, "LOGIT": logit_weight > 0, **blocks, "num_warps": 4}


@triton.jit
def forward_kernel(
    logits_ptr,
    labels_ptr,
    label_weights_ptr,
    teacher_ptr,
    teacher_weights_ptr,
    scale_ptr,
    shift_ptr,
    label_step,
    teacher_step,
    adapter_step,
    losses_ptr,
    B,
    P,
    soft_weight,
    logit_weight,
    label_scaling,
    K: tl.constexpr,
    SOFT: tl.constexpr,
    LOGIT: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
):
    """Part of a model's loss; grid: P, N."""
    model, part = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at, mask = places(part, B, K, BR, BK)
    z = numbers(logits_ptr + model * B * K + at, mask)
    loss = tl.zeros((BR, BK), dtype=tl.float32)
    if labels_ptr is not None:
        c = numbers(label_weights_ptr + model * label_step + at, mask)
        loss += c * cross_entropy(z, numbers(labels_ptr + model * label_step + at, mask))
    if SOFT or LOGIT:
        c = numbers(teacher_weights_ptr + model * teacher_step + at, mask)
        t = numbers(teacher_ptr + model * teacher_step + at, mask)
    if SOFT:
        x = z
        if scale_ptr is not None:
            x = per_task(scale_ptr + model * adapter_step, K, BK) * z
            x += per_task(shift_ptr + model * adapter_step, K, BK)
        loss += soft_weight * c * cross_entropy(x, soft_label(t, label_scaling))
    if LOGIT:
        loss += logit_weight * c * (z - t) * (z - t)
    tl.store(losses_ptr + model * P + part, tl.sum(tl.sum(loss, axis=1), axis=0))


@triton.jit
def backward_kernel(
    grad_ptr,
    logits_ptr,
    labels_ptr,
    label_weights_ptr,
    teacher_ptr,
    teacher_weights_ptr,
    scale_ptr,
    shift_ptr,
    label_step,
    teacher_step,
    adapter_step,
    dz_ptr,
    d_scale_ptr,
    d_shift_ptr,
    B,
    P,
    soft_weight,
    logit_weight,
    label_scaling,
    K: tl.constexpr,
    SOFT: tl.constexpr,
    LOGIT: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
):
    """Gradient of a model's logits, and parts of those of its adapter; grid: P, N."""
    model, part = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at, mask = places(part, B, K, BR, BK)
    grad = tl.load(grad_ptr + model).to(tl.float32)
    z = numbers(logits_ptr + model * B * K + at, mask)
    dz = tl.zeros((BR, BK), dtype=tl.float32)
    if labels_ptr is not None:
        c = numbers(label_weights_ptr + model * label_step + at, mask)
        dz += c * (sigmoid(z) - numbers(labels_ptr + model * label_step + at, mask))
    if SOFT or LOGIT:
        c = numbers(teacher_weights_ptr + model * teacher_step + at, mask)
        t = numbers(teacher_ptr + model * teacher_step + at, mask)
    if SOFT:
        if scale_ptr is not None:
            scale = per_task(scale_ptr + model * adapter_step, K, BK)
            x = scale * z + per_task(shift_ptr + model * adapter_step, K, BK)
            slope = soft_weight * c * (sigmoid(x) - soft_label(t, label_scaling))
            dz += scale * slope
            tasks = tl.arange(0, BK)
            parts = (model * P + part) * K + tasks
            tl.store(d_scale_ptr + parts, grad * tl.sum(slope * z, axis=0), mask=tasks < K)
            tl.store(d_shift_ptr + parts, grad * tl.sum(slope, axis=0), mask=tasks < K)
        else:
            dz += soft_weight * c * (sigmoid(z) - soft_label(t, label_scaling))
    if LOGIT:
        dz += 2.0 * logit_weight * c * (z - t)
    tl.store(dz_ptr + model * B * K + at, grad * dz, mask=mask)


@triton.jit
def places(part, B, K: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr):
    """Places of a block's numbers in [B, K], and which of them there are, [BR, BK]."""
    rows, columns = part * BR + tl.arange(0, BR), tl.arange(0, BK)
    return rows.to(tl.int64)[:, None] * K + columns[None, :], (rows < B)[:, None] & (columns < K)[None, :]


@triton.jit
def numbers(ptrs, mask):
    """In float32; 0 where there is none."""
    return tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def per_task(ptr, K: tl.constexpr, BK: tl.constexpr):
    """One number for each task, [1, BK]."""
    tasks = tl.arange(0, BK)
    return numbers(ptr + tasks, tasks < K)[None, :]


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), whatever x is."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def soft_label(t, label_scaling):
    """min(label_scaling sigmoid(t), 1); of NaN it is NaN, which a minimum would hide."""
    scaled = label_scaling * sigmoid(t)
    return tl.where(scaled > 1.0, 1.0, scaled)


@triton.jit
def cross_entropy(z, y):
    """log(1 + exp(z)) - y z, with a logarithm that is exact near 1 (Kahan)."""
    power = tl.exp(-tl.abs(z))
    one_more = 1.0 + power
    log = tl.where(one_more == 1.0, power, tl.log(one_more) * (power / (one_more - 1.0)))
    return tl.maximum(z, 0.0) - y * z + log
