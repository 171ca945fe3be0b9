"""The multi-task distillation loss on a GPU through its one function: skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kernels.multitask_distillation import multitask_distillation
from kernels.multitask_distillation.op import fused
from tests.kernels.multitask_distillation_cases import TERMS, assert_as_exact, draw, poisoned_memory, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

# ([N,] B, k): ones, off the powers of two, many parts, a bank, empty batches.
SHAPES = [(1, 1), (37, 3), (20011, 8), (32, 513, 2), (0, 2), (2, 0, 3)]
SLACK = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-3}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


def cuda(shape: tuple[int, ...], adapter: bool, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    inputs = {name: x.cuda() for name, x in draw(shape, adapter, torch.float32).items()}
    return inputs | {"logits": inputs["logits"].to(dtype)}


@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_as_exact_as_the_reference(
    shape: tuple[int, ...], adapter: bool, terms: str, dtype: torch.dtype
) -> None:
    inputs = cuda(shape, adapter, dtype)
    found = run(multitask_distillation, inputs, **TERMS[terms])
    assert_as_exact(found, inputs, SLACK[dtype], **TERMS[terms])


def test_repeats_are_bitwise_equal() -> None:
    inputs = cuda((32, 513, 2), True)
    first, *others = (run(multitask_distillation, inputs, **TERMS["all"]) for _ in range(5))
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def test_mapped_over_models_it_is_the_bank() -> None:
    inputs = cuda((4, 37, 3), False)
    bank, z = multitask_distillation(**inputs, **TERMS["all"]), inputs.pop("logits")
    mapped = torch.func.vmap(lambda z: multitask_distillation(z, **inputs, **TERMS["all"]))(z)
    assert torch.equal(mapped, bank)


def test_opcheck() -> None:
    inputs = cuda((2, 5, 3), True)
    adapter = [inputs[name].requires_grad_() for name in ("adapter_scale", "adapter_shift")]
    labels, teacher = inputs["labels"].unsqueeze(0), inputs["teacher_logits"].unsqueeze(0)
    weights = torch.full_like(labels, 0.1)
    arguments = (inputs["logits"].requires_grad_(), labels, weights, teacher, weights.clone(), *adapter)
    torch.library.opcheck(fused, (*arguments, 0.5, 0.3, 1.5))


def test_nothing_waits_for_the_gpu() -> None:
    inputs = cuda((1000, 2), False)
    inputs["logits"].requires_grad_()
    multitask_distillation(**inputs, **TERMS["all"]).backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        multitask_distillation(**inputs, **TERMS["all"]).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
