"""Tensors on a GPU where a Triton path cannot run are refused by every operator, with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import kernels.jagged_mix.op
import kernels.multitask_distillation.op
import kernels.norm_ffn.op
import kernels.wukong_fm.op
from kernels import triton_path
from kernels.embedding.substitute import SubstituteTable
from kernels.jagged_attention import operators
from kernels.triton_path import on_device_of

OFFSETS = torch.tensor([0, 3])
PATHS: dict[str, Callable[[Tensor], Any]] = {
    "jagged_mix": kernels.jagged_mix.op._path,
    "norm_ffn": kernels.norm_ffn.op._path,
    "wukong_fm": kernels.wukong_fm.op._path,
    "multitask_distillation": kernels.multitask_distillation.op._path,
    "jagged_attention": lambda x: operators._gpu(x, OFFSETS, OFFSETS, causal=False, window=0),
    "embedding": lambda x: SubstituteTable(3, 4, 0.1, 1e-8, x.device),
}


@pytest.fixture
def on_a_gpu() -> Iterator[Tensor]:
    """A tensor that says it is on a GPU."""
    with FakeTensorMode():
        yield torch.empty(3, 4, device="cuda")


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    triton_path.check_gpu.cache_clear()
    yield
    triton_path.check_gpu.cache_clear()


@pytest.mark.parametrize("operator", PATHS)
def test_without_triton_it_is_refused(
    operator: str, on_a_gpu: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_path, "find_spec", lambda name: None)
    with pytest.raises(
        RuntimeError, match=f"{operator}: got tensors on 'cuda.*because triton is not installed"
    ):
        PATHS[operator](on_a_gpu)


@pytest.mark.parametrize("operator", PATHS)
def test_a_gpu_that_is_too_old_is_refused(
    operator: str, on_a_gpu: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match=rf"{operator}: got a GPU of compute capability 7.5, allowed: 8.0"):
        PATHS[operator](on_a_gpu)


@pytest.mark.parametrize("operator", [operator for operator in PATHS if operator != "embedding"])
def test_a_gpu_that_is_new_enough_takes_the_triton_path(
    operator: str, on_a_gpu: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    assert PATHS[operator](on_a_gpu).__name__ == f"kernels.{operator}.gpu"


def test_tensors_on_the_cpu_need_no_device() -> None:
    assert isinstance(on_device_of(torch.zeros(1)), nullcontext)
