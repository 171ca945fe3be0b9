"""Wukong's Triton kernels without a GPU: their numbers in the interpreter, their cost when compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.wukong_fm import gpu as compiled
from tests.kernels.triton_tools import SHARED_MEMORY, interpreted, lowered
from tests.kernels.wukong_fm_cases import assert_as_exact, draw, gradients_of, poisoned_memory

# (B, N, D, K, L): ones, off the powers of two and more examples than programs, more width than a block, an empty batch.
SHAPES = [(1, 1, 1, 1, 1), (5, 7, 6, 3, 2), (2, 20, 37, 5, 19), (0, 4, 8, 2, 3)]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return interpreted("kernels.wukong_fm.gpu")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


@pytest.fixture(autouse=True)
def few_programs(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some programs of the backward pass take several examples, others one."""
    monkeypatch.setattr(gpu, "PROGRAMS", 3)


def launch(gpu: ModuleType, inputs: Sequence[Tensor | None]) -> list[Tensor]:
    """Outputs and gradients as `run` gives them, by the launchers."""
    arguments = [*inputs, *[None] * (5 - len(inputs))]
    p, compressed, kept = gpu.forward(*arguments, 1e-5)
    outputs = [p] if arguments[2] is None else [p, compressed]
    gradients = [*gradients_of(outputs), p.new_empty(0)][:2]
    found = gpu.backward(*gradients, kept, *arguments, 1e-5)
    given = zip(found, arguments, strict=True)
    return [*outputs, *(gradient for gradient, argument in given if argument is not None)]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_as_exact_as_the_reference(
    gpu: ModuleType, shape: tuple[int, ...], compress: bool, own: bool, norm: bool
) -> None:
    inputs = draw(shape, compress, torch.float32, own, norm)
    assert_as_exact(launch(gpu, inputs), inputs, 1e-5)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_float16_is_as_exact_as_the_reference(gpu: ModuleType, own: bool, norm: bool) -> None:
    inputs = draw((5, 20, 37, 5, 19), True, torch.float16, own, norm)
    assert_as_exact(launch(gpu, inputs), inputs, 1e-3)


@pytest.mark.parametrize("norm", [False, True])
def test_a_nan_stays_in_its_example(gpu: ModuleType, norm: bool) -> None:
    inputs = draw((5, 7, 6, 3, 2), True, torch.float32, norm=norm)
    clean = launch(gpu, inputs)
    assert inputs[0] is not None
    inputs[0][3, 2, 1] = torch.nan
    others = [0, 1, 2, 4]
    for before, after in list(zip(clean, launch(gpu, inputs), strict=True))[:3]:
        assert torch.equal(after[others], before[others]) and after[3].isnan().any()


def test_repeats_are_bitwise_equal(gpu: ModuleType) -> None:
    inputs = draw((7, 7, 6, 3, 2), True, torch.float32, norm=True)
    first, again = launch(gpu, inputs), launch(gpu, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_inputs_that_are_views_are_read_rightly(gpu: ModuleType) -> None:
    inputs = [t for t in draw((5, 7, 6, 3, 2), True, torch.float32, True, True) if t is not None]
    views = [t.mT.contiguous().mT if t.dim() > 1 else t.repeat_interleave(2)[::2] for t in inputs]
    assert not any(view.is_contiguous() for view in views)
    pairs = zip(launch(gpu, views), launch(gpu, inputs), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


# Sizes (N, D, K, L), dtype, and bytes of a thread that may spill, by compute capability: GEM's largest model; the
# largest that tensor cores do at full speed on a Hopper GPU, and the largest at all; float32, which has none.
COSTS = [
    ((40, 96, 8, 36), torch.bfloat16, {90: 0, 80: 0}),
    ((128, 128, 32, 64), torch.bfloat16, {90: 0, 80: 400}),
    ((128, 128, 32, 128), torch.bfloat16, {90: 400}),
    ((32, 96, 8, 32), torch.float32, {90: 0, 80: 0}),
]


def signature_of(kernel: Any, constants: dict[str, Any], dtype: torch.dtype) -> dict[str, str]:
    """Types of what is no constant, of whole tensors."""
    sums = ["dy_ptr", "dw_ptr", "d_weight_ptr", "d_bias_ptr"]
    types = {"B": "i32", "S": "i32", "eps": "fp32"} | dict.fromkeys(sums, "*fp32:16")
    pointer = {torch.float32: "*fp32:16", torch.bfloat16: "*bf16:16"}[dtype]
    return {name: types.get(name, pointer) for name in kernel.arg_names if name not in constants}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("sizes", "dtype", "capability", "spilled"),
    [(sizes, dtype, capability, n) for sizes, dtype, most in COSTS for capability, n in most.items()],
    ids=str,
)
def test_it_compiles_for_a_gpu(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, capability: int, spilled: int, backward: bool
) -> None:
    kernel = compiled.backward_kernel if backward else compiled.forward_kernel
    constants = compiled.constants(*sizes, dtype, own=False)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    signature = signature_of(kernel, constants, dtype)
    code = lowered(kernel, signature, constants, capability, **options)
    assert code.spilled <= spilled and code.registers <= 255
    assert code.shared <= SHARED_MEMORY[capability]
    if dtype == torch.bfloat16:
        assert "mma" in code.ptx
    else:
        assert "mma" not in code.ptx and "tf32" not in code.ptx


@pytest.mark.parametrize("given", ["all", "none of w and norm"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kernel", [compiled.forward_kernel, compiled.backward_kernel], ids=str)
def test_it_compiles_for_sizes_of_one(kernel: Any, own: bool, given: str) -> None:
    # Triton makes a constant of every number that is 1, and of what is None.
    constants = compiled.constants(1, 1, 1, 1, torch.bfloat16, own)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    constants |= {name: 1 for name in "BS" if name in kernel.arg_names}
    if given != "all":
        constants |= dict.fromkeys(["w_ptr", "norm_weight_ptr", "norm_bias_ptr"])
    code = lowered(kernel, signature_of(kernel, constants, torch.bfloat16), constants, 90, **options)
    assert code.spilled == 0
