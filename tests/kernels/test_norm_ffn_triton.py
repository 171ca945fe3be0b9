"""The feed-forward block's Triton kernels without a GPU: their numbers in the interpreter, their cost when compiled."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.norm_ffn import gpu as compiled
from kernels.norm_ffn.reference import norm_ffn as reference
from tests.kernels.norm_ffn_cases import FORMS, assert_as_exact, draw, gradient_of, poisoned_memory, run
from tests.kernels.triton_tools import SHARED_MEMORY, interpreted, lowered

# (T, D, F): ones, off the powers of two, more rows and units than a block has, an empty batch.
SHAPES = [(1, 1, 1), (5, 6, 11), (19, 20, 33), (0, 4, 7)]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return interpreted("kernels.norm_ffn.gpu")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


@pytest.fixture(autouse=True)
def few_programs(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some programs that sum over rows take several blocks of them, others one."""
    monkeypatch.setattr(gpu, "PROGRAMS", 6)


def launch(
    gpu: ModuleType,
    inputs: list[Tensor],
    products: torch.dtype | None = None,
    activation: str = "gelu",
    gated: bool = False,
    eps: float = 1e-5,
) -> list[Tensor]:
    """Output and gradients as `run` gives them, by the launchers."""
    settings = (activation, gated, eps, products or inputs[0].dtype)
    out = gpu.forward(*inputs, *settings)
    return [out, *gpu.backward(gradient_of(out), *inputs[:-1], *settings)]


@pytest.mark.parametrize(("activation", "gated"), FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_as_exact_as_the_reference(
    gpu: ModuleType, shape: tuple[int, ...], activation: str, gated: bool
) -> None:
    settings: dict[str, Any] = {"activation": activation, "gated": gated, "eps": 1e-3}
    inputs = draw(shape, gated, torch.float32)
    assert_as_exact(launch(gpu, inputs, **settings), inputs, 2e-6, **settings)


@pytest.mark.parametrize(("activation", "gated"), FORMS)
def test_float16_is_as_exact_as_the_reference(gpu: ModuleType, activation: str, gated: bool) -> None:
    settings: dict[str, Any] = {"activation": activation, "gated": gated}
    inputs = draw((70, 20, 33), gated, torch.float16)
    assert_as_exact(launch(gpu, inputs, **settings), inputs, 1e-3, **settings)


@pytest.mark.parametrize("gated", [False, True])
def test_narrow_products_are_as_exact_as_under_autocast(gpu: ModuleType, gated: bool) -> None:
    inputs = draw((70, 20, 33), gated, torch.float32)
    with torch.autocast("cpu", torch.float16):
        plain = run(reference, inputs, gated=gated)
    assert_as_exact(launch(gpu, inputs, torch.float16, gated=gated), inputs, 1e-3, plain, gated=gated)


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")
def test_rows_beyond_the_last_one_add_nothing_even_to_a_norm_without_eps(gpu: ModuleType) -> None:
    inputs = draw((5, 6, 11), dtype=torch.float32)
    assert_as_exact(launch(gpu, inputs, eps=0.0), inputs, 2e-6, eps=0.0)


def test_a_nan_stays_in_its_row(gpu: ModuleType) -> None:
    inputs = draw((5, 6, 11), dtype=torch.float32)
    clean, _, *_ = launch(gpu, inputs, activation="relu")
    inputs[0][3, 2] = torch.nan
    out, dx, *others = launch(gpu, inputs, activation="relu")
    assert torch.equal(out[:3], clean[:3]) and torch.equal(out[4:], clean[4:])
    assert out[3].isnan().all() and dx[3].isnan().all() and not dx[:3].isnan().any()
    assert others[2].isnan().any()


def test_repeats_are_bitwise_equal(gpu: ModuleType) -> None:
    inputs = draw((35, 20, 33), True, torch.float32)
    first, again = (launch(gpu, inputs, gated=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_inputs_that_are_views_are_read_rightly(gpu: ModuleType) -> None:
    inputs = draw((5, 6, 11), dtype=torch.float32)
    views = [x.t().contiguous().t() if x.dim() == 2 else x.repeat_interleave(2)[::2] for x in inputs]
    torch.testing.assert_close(launch(gpu, views), launch(gpu, inputs))


KERNELS = [compiled.forward_kernel, compiled.backward_rows_kernel, compiled.backward_weights_kernel]
SUMS = {"d_folded_ptr", "d_shift_ptr", "d_w2_ptr", "d_b2_ptr"}


def signature_of(kernel: Any, constants: dict[str, Any], rows: str, products: str) -> dict[str, str]:
    """Types of what is no constant, of whole tensors whose width and hidden units sixteen divides."""
    types = {"T": "i32", "D": "i32:16", "F": "i32:16", "P": "i32", "eps": "fp32"}
    types |= dict.fromkeys(SUMS, "*fp32:16") | dict.fromkeys(("w1_ptr", "w2_ptr"), f"*{products}:16")
    return {name: types.get(name, f"*{rows}:16") for name in kernel.arg_names if name not in constants}


@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["forward", "rows", "weights"])
@pytest.mark.parametrize(
    ("width", "rows", "products", "gated"),
    [
        (64, torch.bfloat16, torch.bfloat16, False),
        (128, torch.float32, torch.bfloat16, True),
        (128, torch.float32, torch.float32, True),
    ],
    ids=["bfloat16", "autocast", "float32"],
)
def test_it_compiles_for_a_gpu_without_spilling(
    width: int, rows: torch.dtype, products: torch.dtype, gated: bool, place: int, capability: int
) -> None:
    kernel, size = KERNELS[place], compiled.launches(width, products, gated)[place]
    short = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    constants: dict[str, Any] = {"ACTIVATION": "gelu", "GATED": gated}
    constants |= {"BT": size.rows, "BD": width, "BF": size.units}
    signature = signature_of(kernel, constants, short[rows], short[products])
    code = lowered(kernel, signature, constants, capability, num_warps=size.warps, num_stages=size.stages)
    # 32 bytes: less than a hundredth of what a thread holds, out of the loops.
    assert code.spilled <= 32 and code.registers <= 255
    assert code.shared <= SHARED_MEMORY[capability]
    if products == torch.bfloat16:
        assert "mma" in code.ptx
    else:
        assert "mma" not in code.ptx and "tf32" not in code.ptx


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_it_compiles_for_sizes_of_one(kernel: Any) -> None:
    # Triton makes a constant of every number that is 1.
    ones = {name: 1 for name in "TDFP" if name in kernel.arg_names}
    constants: dict[str, Any] = {"ACTIVATION": "silu", "GATED": True, "BT": 16, "BD": 16, "BF": 16} | ones
    code = lowered(kernel, signature_of(kernel, constants, "fp16", "fp16"), constants, 90, num_warps=4)
    assert code.spilled == 0
