"""Jagged mixing's Triton kernels: in the interpreter, compiled for a GPU that is not there, and on one that is."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.jagged_mix import gpu as compiled
from kernels.jagged_mix import jagged_mix, op
from kernels.jagged_mix.reference import jagged_mix as reference
from tests.kernels.test_jagged_mix import draw, offsets_of, poisoned_memory, run
from tests.kernels.triton_tools import SHARED_MEMORY, interpreted, lowered

__all__ = ["poisoned_memory"]  # a fixture

# Empty rows first, last and between, ones, more tokens than a block has; an empty batch.
LENGTHS = [[0, 1, 7, 0, 40, 3, 0], [0, 0], []]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return interpreted("kernels.jagged_mix.gpu")


@pytest.fixture
def in_interpreter(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors go to the interpreted kernels, with dtypes as on a GPU."""
    monkeypatch.setattr(op, "_path", lambda values: gpu)
    monkeypatch.setitem(op.DTYPES, "cpu", op.DTYPES["cuda"])


def assert_as_exact(inputs: Sequence[Tensor], offsets: Tensor, slack: float) -> None:
    """Each errs at most thrice as much as plain PyTorch of its precision, both against float64."""
    exact = run(reference, [x.double() for x in inputs], offsets)
    plain, got = run(reference, inputs, offsets), run(jagged_mix, inputs, offsets)
    for truth, usual, value in zip(exact, plain, got, strict=True):
        assert value.dtype == usual.dtype and value.shape == truth.shape
        if truth.numel():
            allowed = 3 * (usual.double() - truth).abs().max() + slack
            assert (value.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize(("mixed", "dim"), [(1, 1), (6, 17)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-6), (torch.float16, 2e-3)], ids=str)
def test_it_is_as_exact_as_the_reference(
    in_interpreter: None, lengths: list[int], mixed: int, dim: int, dtype: torch.dtype, slack: float
) -> None:
    assert_as_exact(draw(lengths, mixed, dim, dtype), offsets_of(lengths), slack)


def test_a_nan_stays_in_its_row_and_repeats_are_bitwise_equal(in_interpreter: None) -> None:
    offsets = offsets_of([17, 3, 18])
    values, matrices = draw([17, 3, 18], 3, 4, torch.float32)
    clean, again = (run(jagged_mix, [values, matrices], offsets) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))
    values[18] = torch.nan
    out, d_values, d_matrices = run(jagged_mix, [values, matrices], offsets)
    assert torch.equal(out[:17], clean[0][:17]) and torch.equal(out[20:], clean[0][20:])
    assert torch.equal(d_values, clean[1]) and torch.equal(d_matrices[[0, 2]], clean[2][[0, 2]])
    assert out[18].isnan().all() and d_matrices[1].isnan().any()


def test_tokens_past_the_last_row_give_zeros_and_get_no_gradient(gpu: ModuleType) -> None:
    values, matrices = draw([2, 3], 3, 4, torch.float32)
    offsets = torch.tensor([0, 1, 2])
    out, (d_values, _) = (
        gpu.forward(values, matrices, offsets),
        gpu.backward(torch.ones(5, 4), values, matrices, offsets),
    )
    assert out[:2].abs().min() > 0 and not out[2:].any() and not d_values[2:].any()


@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize(("mixed", "dim"), [(8, 64), (op.GPU_SIZES["M"], op.GPU_SIZES["D"])])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "kernel", [compiled.forward_kernel, compiled.backward_kernel], ids=["forward", "backward"]
)
def test_it_compiles_for_a_gpu_without_spilling(
    kernel: Any, dtype: torch.dtype, mixed: int, dim: int, capability: int
) -> None:
    constants = compiled.constants(mixed, dim, dtype)
    warps = constants.pop("num_warps")
    types, others = {"offsets_ptr": "*i64:16"}, "*fp32:16" if dtype == torch.float32 else "*bf16:16"
    signature = {name: types.get(name, others) for name in kernel.arg_names if name not in constants}
    code = lowered(kernel, signature, constants, capability, num_warps=warps)
    assert code.spilled == 0 and code.registers <= 255
    assert code.shared <= SHARED_MEMORY[capability]
    assert ("mma" in code.ptx) == (dtype == torch.bfloat16) and "tf32" not in code.ptx


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("mixed", "dim"), [(1, 1), (6, 17), (64, 128)])
def test_on_a_gpu_it_is_as_exact_as_the_reference(mixed: int, dim: int, dtype: torch.dtype) -> None:
    lengths = [0, 1, 7, 0, 7, 33, 1, 1300, 3, 0]
    inputs = [(x / mixed**0.5).cuda() for x in draw(lengths, mixed, dim, dtype)]
    slack = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}[dtype]
    assert_as_exact(inputs, offsets_of(lengths).cuda(), slack)
