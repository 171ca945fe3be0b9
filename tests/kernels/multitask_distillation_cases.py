"""What every path of the multi-task distillation loss is fed with, and how its tests run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.multitask_distillation.reference import multitask_distillation as reference
from tests.kernels.norm_ffn_cases import poisoned_memory

__all__ = ["TERMS", "assert_as_exact", "draw", "loop", "poisoned_memory", "run"]

# Each term alone, with its adapter or a scaling that clips, and all of them at once.
TERMS: dict[str, dict[str, Any]] = {
    "labels": {"label_weight": 1.0},
    "soft": {"label_weight": 0.0, "soft_weight": 0.7, "label_scaling": 1.5},
    "logits": {"label_weight": 0.0, "logit_weight": 0.3},
    "all": {"label_weight": 1.3, "soft_weight": 0.7, "logit_weight": 0.3},
}
LEARNT = ("logits", "adapter_scale", "adapter_shift")


def draw(shape: Sequence[int], adapter: bool = False, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Arguments of logits [B, k] or [N, B, k]; a fifth of the labels and of the teacher's rows are unknown."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype)

    def chance(p: float) -> Tensor:
        return torch.rand(tuple(shape[-2:]), generator=generator) < p

    tasks = shape[-1]
    drawn: dict[str, Any] = {
        "logits": 3 * normal(*shape),
        "labels": chance(0.3).to(dtype),
        "label_mask": chance(0.8),
        "teacher_logits": normal(*shape[-2:]),
        "teacher_mask": chance(0.8),
        "task_weights": (0.5 + torch.arange(tasks)).to(dtype),
    }
    if adapter:
        size = (*shape[:-2], tasks)
        drawn |= {"adapter_scale": 1 + 0.3 * normal(*size), "adapter_shift": 0.5 * normal(*size)}
    return drawn


def run(function: Callable[..., Tensor], inputs: Mapping[str, Tensor], **settings: Any) -> dict[str, Tensor]:
    """The loss, and the gradients of all that is learnt from a fixed gradient of the loss, which is none of 1."""
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in LEARNT if name in inputs}
    out = function(**(dict(inputs) | leaves), **settings)
    grad = 0.25 + torch.arange(max(out.numel(), 1), dtype=out.dtype, device=out.device).view(out.shape)
    found = torch.autograd.grad(out, list(leaves.values()), grad, materialize_grads=True)
    return {"loss": out.detach()} | dict(zip(leaves, found, strict=True))


def loop(**arguments: Any) -> Tensor:
    """The reference of each model by itself."""
    own = {
        name: x
        for name, x in arguments.items()
        if name in LEARNT and x.dim() == (3 if name == "logits" else 2)
    }
    shared = {name: x for name, x in arguments.items() if name not in own}
    count = len(arguments["logits"])
    return torch.stack([reference(**shared, **{name: x[n] for name, x in own.items()}) for n in range(count)])


def assert_as_exact(
    found: Mapping[str, Tensor], inputs: Mapping[str, Tensor], slack: float, **settings: Any
) -> None:
    """Loss and gradients err at most thrice as much as plain PyTorch of their precision, both against float64."""
    plain = loop if inputs["logits"].dim() == 3 else reference
    wide = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    exact, usual = run(plain, wide, **settings), run(plain, inputs, **settings)
    assert found.keys() == exact.keys()
    for name, truth in exact.items():
        got = found[name]
        assert got.dtype == usual[name].dtype and got.shape == truth.shape
        if truth.numel():
            allowed = 3 * (usual[name].double() - truth).abs().max() + slack
            assert (got.double() - truth).abs().max() <= allowed, name
