"""The multi-task distillation loss's Triton kernels without a GPU: numbers in the interpreter, cost when compiled."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from kernels.multitask_distillation import gpu as compiled
from kernels.multitask_distillation import multitask_distillation, op
from tests.kernels.multitask_distillation_cases import TERMS, assert_as_exact, draw, poisoned_memory, run
from tests.kernels.triton_tools import interpreted, lowered

# ([N,] B, k): ones, off the powers of two, several parts, an empty batch.
SHAPES = [(1, 1), (2, 5, 3), (0, 2)]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return interpreted("kernels.multitask_distillation.gpu")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


@pytest.fixture(autouse=True)
def on_the_cpu(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors go to the interpreted kernels, in programs of four rows or less, with dtypes as on a GPU."""
    monkeypatch.setattr(gpu, "NUMBERS", 8)
    monkeypatch.setattr(op, "_path", lambda logits: gpu)
    monkeypatch.setattr(op, "_is_plain", lambda logits: False)
    monkeypatch.setattr(op, "_as_taken", lambda logits: logits)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_as_exact_as_the_reference(shape: tuple[int, ...], terms: str) -> None:
    inputs = draw(shape, True, torch.float32)
    assert_as_exact(run(multitask_distillation, inputs, **TERMS[terms]), inputs, 1e-6, **TERMS[terms])


@pytest.mark.parametrize("adapter", [False, True])
def test_float16_is_as_exact_as_the_reference(adapter: bool) -> None:
    inputs = draw((2, 5, 3), adapter, torch.float32)
    inputs["logits"] = inputs["logits"].half()
    assert_as_exact(run(multitask_distillation, inputs, **TERMS["all"]), inputs, 1e-4, **TERMS["all"])


# Triton computes both branches of a choice, also the one that divides by 0.
@pytest.mark.filterwarnings("ignore:(overflow|divide by zero|invalid value) encountered:RuntimeWarning")
def test_logits_of_any_size_are_exact() -> None:
    inputs = draw((5, 3), False, torch.float32)
    inputs["logits"] *= 90
    found = run(multitask_distillation, inputs, **TERMS["all"])
    assert_as_exact(found, inputs, 1e-2, **TERMS["all"])


def test_what_is_each_models_own_is_read_from_its_place() -> None:
    """As under torch.func.vmap: labels of their own, masks and adapter shared."""
    inputs = draw((3, 5, 3), False, torch.float32)
    labels = torch.stack([inputs["labels"].roll(n, 0) for n in range(3)])
    z = inputs.pop("logits")
    own = torch.func.vmap(lambda z, y: multitask_distillation(z, **(inputs | {"labels": y}), **TERMS["all"]))
    each = [
        multitask_distillation(z[n], **(inputs | {"labels": labels[n]}), **TERMS["all"]) for n in range(3)
    ]
    assert torch.equal(own(z, labels), torch.stack(each))


def test_a_nan_in_one_model_leaves_the_others_bit_identical_and_repeats_are_equal() -> None:
    inputs = draw((3, 5, 2), False, torch.float32)
    clean, again = (run(multitask_distillation, inputs, **TERMS["all"]) for _ in range(2))
    assert all(torch.equal(clean[name], again[name]) for name in clean)
    inputs["logits"][1, 2, 0] = torch.nan
    found = run(multitask_distillation, inputs, **TERMS["all"])
    assert all(torch.equal(found[name][[0, 2]], clean[name][[0, 2]]) for name in clean)
    assert found["loss"][1].isnan() and found["logits"][1, 2, 0].isnan()


def test_a_nan_of_the_teacher_is_not_hidden_by_the_clipping() -> None:
    inputs = draw((5, 2), False, torch.float32)
    inputs["teacher_mask"][:] = True
    inputs["teacher_logits"][1, 0] = torch.nan
    found = run(multitask_distillation, inputs, **TERMS["soft"])
    assert found["loss"].isnan() and found["logits"][1, 0].isnan()


NONE = ["labels_ptr", "label_weights_ptr", "scale_ptr", "shift_ptr", "d_scale_ptr", "d_shift_ptr"]


def signature_of(kernel: Any, constants: dict[str, Any], logits: str) -> dict[str, str]:
    """Types of what is no constant, of whole tensors."""
    types = dict.fromkeys(("soft_weight", "logit_weight", "label_scaling"), "fp32")
    types |= dict.fromkeys(("B", "P", "label_step", "teacher_step", "adapter_step"), "i32")
    types |= dict.fromkeys(("logits_ptr", "dz_ptr"), f"*{logits}:16")
    return {name: types.get(name, "*fp32:16") for name in kernel.arg_names if name not in constants}


@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize(("tasks", "logits"), [(2, "fp32"), (8, "bf16")])
@pytest.mark.parametrize(
    "kernel", [compiled.forward_kernel, compiled.backward_kernel], ids=["forward", "backward"]
)
def test_it_compiles_for_a_gpu_without_spilling(
    kernel: Any, tasks: int, logits: str, capability: int
) -> None:
    constants = compiled.constants(tasks, 1.0, 1.0)
    warps = constants.pop("num_warps")
    code = lowered(kernel, signature_of(kernel, constants, logits), constants, capability, num_warps=warps)
    # Few registers, so that ten programs fit a multiprocessor, which memory-bound kernels live on.
    assert code.spilled == 0 and code.registers <= 48
    assert code.shared <= 1024


@pytest.mark.parametrize(
    "kernel", [compiled.forward_kernel, compiled.backward_kernel], ids=["forward", "backward"]
)
def test_it_compiles_for_sizes_of_one_and_without_what_is_not_given(kernel: Any) -> None:
    constants = compiled.constants(1, 1.0, 0.0)
    warps = constants.pop("num_warps")
    constants |= {"B": 1, "P": 1} | {name: None for name in NONE if name in kernel.arg_names}
    code = lowered(kernel, signature_of(kernel, constants, "fp16"), constants, 90, num_warps=warps)
    assert code.spilled == 0
