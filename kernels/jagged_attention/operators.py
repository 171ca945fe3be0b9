"""Jagged attention as registered operators, each one node for autograd and torch.compile, with a closed backward.

Two of them, since they keep different things for the backward pass: softmax its output and the log-sum-exp of its
scores, the activations nothing. On the CPU the values of the offsets are checked; on a GPU nobody waits for them.

Shape letters: B rows (examples), Tq and Tk queries and keys of all rows, H heads, E floats per head.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.jagged_attention import cpu, cpu_activations
from kernels.triton_path import check_gpu

Gradients = tuple[Tensor, Tensor, Tensor]


def refuse_order(causal: bool, window: int, why: str) -> None:
    """Refuses a causal order and a window, for a reason."""
    if causal:
        raise ValueError(f"causal: got True, allowed: False, because {why}")
    if window:
        raise ValueError(f"window: got {window}, allowed: 0, because {why}")


def _check_offsets(name: str, offsets: Tensor, tokens: int) -> None:
    found = offsets.numpy()  # half the time of a tensor's comparison
    if found[0] != 0 or found[-1] != tokens or (found[1:] < found[:-1]).any():
        raise ValueError(
            f"{name}: got {found[0]} ... {found[-1]}, allowed: ascending from 0 to the number of tokens, {tokens}"
        )


def _check_values(
    q: Tensor, k: Tensor, q_offsets: Tensor, k_offsets: Tensor, causal: bool, window: int
) -> None:
    _check_offsets("q_offsets", q_offsets, len(q))
    _check_offsets("k_offsets", k_offsets, len(k))
    if (causal or window) and not torch.equal(q_offsets, k_offsets):
        refuse_order(causal, window, "q_offsets are unlike k_offsets: this is no self-attention")


def _gpu(q: Tensor, q_offsets: Tensor, k_offsets: Tensor, causal: bool, window: int) -> ModuleType:
    """The Triton path, imported when first needed, for arguments that it can take."""
    check_gpu("jagged_attention", q.device)
    from kernels.jagged_attention import gpu

    if (causal or window) and q_offsets.data_ptr() != k_offsets.data_ptr():
        refuse_order(
            causal, window, "q_offsets is another tensor than k_offsets, and on a GPU values are not compared"
        )
    return gpu


@torch.library.custom_op("gem_distill::jagged_softmax_attention", mutates_args=(), device_types="cpu")
def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    _check_values(q, k, q_offsets, k_offsets, causal, window)
    return cpu.forward(q, k, v, q_offsets, k_offsets, causal, window, scale)


@softmax_attention.register_kernel("cuda")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    with torch.cuda.device(q.device):
        return _gpu(q, q_offsets, k_offsets, causal, window).forward(
            q, k, v, q_offsets, k_offsets, "softmax", causal, window, scale
        )


@softmax_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=cpu.lse_dtype(q))


@torch.library.custom_op(
    "gem_distill::jagged_softmax_attention_backward", mutates_args=(), device_types="cpu"
)
def softmax_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> Gradients:
    return cpu.backward(grad, q, k, v, out, lse, q_offsets, k_offsets, causal, window, scale)


@softmax_attention_backward.register_kernel("cuda")
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool,
    window: int,
    scale: float,
) -> Gradients:
    with torch.cuda.device(q.device):
        return _gpu(q, q_offsets, k_offsets, causal, window).backward(
            grad, q, k, v, out, lse, q_offsets, k_offsets, "softmax", causal, window, scale
        )


@softmax_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Gradients:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save_softmax(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, q_offsets, k_offsets, ctx.causal, ctx.window, ctx.scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse, q_offsets, k_offsets)


def _softmax_gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv = softmax_attention_backward(grad, *ctx.saved_tensors, ctx.causal, ctx.window, ctx.scale)
    return dq, dk, dv, None, None, None, None, None


softmax_attention.register_autograd(_softmax_gradients, setup_context=_save_softmax)


@torch.library.custom_op("gem_distill::jagged_activation_attention", mutates_args=(), device_types="cpu")
def activation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> Tensor:
    _check_values(q, k, q_offsets, k_offsets, causal, window)
    return cpu_activations.forward(q, k, v, q_offsets, k_offsets, activation, causal, window, scale)


@activation_attention.register_kernel("cuda")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> Tensor:
    with torch.cuda.device(q.device):
        return _gpu(q, q_offsets, k_offsets, causal, window).forward(
            q, k, v, q_offsets, k_offsets, activation, causal, window, scale
        )[0]


@activation_attention.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op(
    "gem_distill::jagged_activation_attention_backward", mutates_args=(), device_types="cpu"
)
def activation_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu_activations.backward(grad, q, k, v, q_offsets, k_offsets, activation, causal, window, scale)


@activation_attention_backward.register_kernel("cuda")
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> Gradients:
    with torch.cuda.device(q.device):
        return _gpu(q, q_offsets, k_offsets, causal, window).backward(
            grad, q, k, v, None, None, q_offsets, k_offsets, activation, causal, window, scale
        )


@activation_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Gradients:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save_activation(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation, ctx.causal, ctx.window, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _activation_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv = activation_attention_backward(
        grad, *ctx.saved_tensors, ctx.activation, ctx.causal, ctx.window, ctx.scale
    )
    return dq, dk, dv, None, None, None, None, None, None


activation_attention.register_autograd(_activation_gradients, setup_context=_save_activation)
