"""Triton kernels of jagged attention: run by the interpreter against `reference.py`, compiled for GPUs.

The interpreter takes tiny shapes, and no bfloat16, whose products it gets wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from kernels.jagged_attention import gpu, gpu_kernels
from kernels.jagged_attention.reference import jagged_attention as reference
from tests.kernels.jagged_attention_cases import (
    ACTIVATIONS,
    CASES,
    HEADS,
    WIDTH,
    Case,
    assert_right,
    draw,
    offsets_of,
    poisoned_memory,
    run,
)
from tests.kernels.triton_tools import SHARED_MEMORY, interpreted, lowered

in_interpreter = interpreted("kernels.jagged_attention.gpu")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


class Launched(torch.autograd.Function):
    """The launchers as the registered operators call them, without the operators."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        out, lse = in_interpreter.forward(q, k, v, *rest)
        ctx.rest = rest
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradients = in_interpreter.backward(gradients[0], *ctx.saved_tensors, *ctx.rest)
        return *gradients, *(None for _ in ctx.rest)


def launched(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    causal: bool = False,
    window: int = 0,
    activation: str = "softmax",
) -> Tensor:
    return Launched.apply(q, k, v, q_offsets, k_offsets, activation, causal, window, q.shape[2] ** -0.5)


@pytest.mark.parametrize("activation", ["softmax", "silu"])
@pytest.mark.parametrize("case", CASES)
def test_float32_is_as_exact_as_the_reference(case: Case, activation: str) -> None:
    inputs = case.draw(torch.float32)
    assert_right(launched, inputs, *case.offsets(), activation=activation, **case.options)


@pytest.mark.parametrize("activation", ["gelu", "relu2"])
@pytest.mark.parametrize("case", CASES[2:4])
def test_other_activations_in_float32_are_as_exact_as_the_reference(case: Case, activation: str) -> None:
    inputs = case.draw(torch.float32)
    assert_right(launched, inputs, *case.offsets(), activation=activation, **case.options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES[2:3])
def test_float16_is_as_exact_as_the_reference(case: Case, activation: str) -> None:
    inputs = case.draw(torch.float16)
    assert_right(launched, inputs, *case.offsets(), activation=activation, **case.options)


@pytest.mark.parametrize("activation", ["softmax", "silu"])
@pytest.mark.parametrize("width", [1, 16, 40])
def test_heads_of_other_widths(width: int, activation: str) -> None:
    lengths = [3, 0, 18]
    offsets = offsets_of(lengths)
    inputs = [draw(21, torch.float32, seed=s, heads=1, width=width) for s in range(3)]
    assert_right(launched, inputs, offsets, offsets, causal=True, activation=activation)


def test_inputs_that_are_views_are_read_rightly() -> None:
    offsets = offsets_of([4, 1, 4])
    q, k, v = draw(9, torch.float32, width=3 * WIDTH).split(WIDTH, dim=-1)
    turned = v.transpose(1, 2).contiguous().transpose(1, 2)
    assert_right(launched, [q, k, v], offsets, offsets)
    views = launched(q, k, turned, offsets, offsets)
    assert torch.equal(views, launched(q.contiguous(), k.contiguous(), v.contiguous(), offsets, offsets))


def first_five(q: Tensor, k: Tensor, v: Tensor, *offsets: Tensor, **options: Any) -> Tensor:
    """The definition over the first five tokens, and zeros for the others."""
    out = reference(q[:5], k[:5], v[:5], *offsets, **options)
    return torch.cat([out, torch.zeros_like(q[5:])])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tokens_that_no_row_holds_give_zeros_and_zero_gradients(activation: str) -> None:
    offsets, inputs = offsets_of([2, 3]), [draw(40, torch.float32, seed=s) for s in range(3)]
    got = run(launched, inputs, offsets, offsets, activation=activation)
    expected = run(first_five, inputs, offsets, offsets, activation=activation)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
        assert torch.equal(mine[5:], torch.zeros(35, HEADS, WIDTH))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_nan_in_one_row_leaves_the_others_bit_identical(activation: str) -> None:
    offsets, inputs = offsets_of([7, 7, 3]), [draw(17, torch.float32, seed=s) for s in range(3)]
    clean = run(launched, inputs, offsets, offsets, activation=activation)
    for x in inputs:
        x[8] = torch.nan
    dirty = run(launched, inputs, offsets, offsets, activation=activation)
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[:7], after[:7]) and torch.equal(before[14:], after[14:])
        assert after[7:14].isnan().any()


KERNELS: dict[str, tuple[JITFunction, Callable[..., gpu.Blocks]]] = {
    "forward": (gpu_kernels.forward_kernel, gpu.forward_blocks),
    "queries": (gpu_kernels.backward_queries_kernel, gpu.backward_queries_blocks),
    "keys": (gpu_kernels.backward_keys_kernel, gpu.backward_keys_blocks),
}
OF_SOFTMAX = {"lse", "delta", "out"}


def signature_and_constants(
    kernel: JITFunction, constants: dict[str, Any], dtype: str
) -> tuple[dict[str, str], dict[str, Any]]:
    """What a launch on whole tensors hands to a kernel; what only softmax needs is None without it."""
    signature = {"heads": "i32", "window": "i32", "scale": "fp32", "tiles": "*i64:16"}
    for name in kernel.arg_names:
        if name in constants or name in signature:
            continue
        is_tensor = not name.endswith(("_stride", "_head"))
        precision = "fp32" if name in ("lse", "delta") else dtype
        signature[name] = f"*{precision}:16" if is_tensor else "i32:16"
    if constants["ACTIVATION"] != "softmax":
        unused = OF_SOFTMAX - ({"out"} if kernel is gpu_kernels.forward_kernel else set())
        absent = {name: None for name in unused if signature.pop(name, None)}
        constants = constants | absent
    return signature, constants


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("capability", "width", "length", "dtype", "activation", "causal", "window"),
    [
        (90, 64, 512, "bf16", "softmax", True, 0),
        (80, 64, 512, "bf16", "softmax", True, 0),
        (90, 128, 512, "fp16", "gelu", False, 9),
        (80, 256, 512, "bf16", "softmax", False, 0),
        (80, 32, 512, "fp32", "silu", True, 0),
        (90, 12, 10, "bf16", "relu2", False, 0),
    ],
)
def test_it_compiles_for_a_gpu_without_spilling(
    kernel: str,
    capability: int,
    width: int,
    length: int,
    dtype: str,
    activation: str,
    causal: bool,
    window: int,
) -> None:
    function, blocks_for = KERNELS[kernel]
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    blocks = blocks_for(width, precision, length)
    like = torch.empty(0, 4, width, dtype=precision)
    constants = gpu.constants(like, blocks, activation, causal, window)
    options: dict[str, Any] = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    signature, constants = signature_and_constants(function, constants, dtype)
    code = lowered(function, signature, constants, capability, **options)
    assert code.spilled == 0 and code.registers <= 255
    assert code.shared <= SHARED_MEMORY[capability]
    tensor_core = "mma" in code.ptx
    assert tensor_core == (dtype != "fp32"), "float32 is exact, and others use the tensor cores"
