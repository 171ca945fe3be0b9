"""Cases of the multi-task distillation loss: a bank's models on one batch, all terms at once.

The stock routes are the definition mapped over the models (torch.func.vmap), eager and compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.kernels.case import COMPILED, Case, Function, both_directions, compiled, leaves
from kernels.multitask_distillation import multitask_distillation
from kernels.multitask_distillation.reference import multitask_distillation as reference

BANKS = {
    "cpu": [(16, 4096, 2), (64, 4096, 2)],
    "cuda": [(32, 65_536, 8)],
    "dry": [(2, 5, 3)],
}
"""N models, B examples, k tasks."""
TERMS: dict[str, Any] = {"label_weight": 1.0, "soft_weight": 0.5, "logit_weight": 0.1}


def distillation(device: str, dtype: torch.dtype, dry: bool) -> Iterator[Case]:
    """Labels, soft labels and logits, a tenth of the rows unknown; arguments as of `attention`."""
    for models, batch, tasks in BANKS["dry" if dry else device]:
        (logits,) = leaves((models, batch, tasks), dtype=dtype, device=device)
        signals: dict[str, Any] = {
            "labels": (torch.rand(batch, tasks, device=device) < 0.2).float(),
            "label_mask": torch.rand(batch, tasks, device=device) < 0.9,
            "teacher_logits": torch.randn(batch, tasks, device=device),
            "teacher_mask": torch.rand(batch, tasks, device=device) < 0.9,
        }
        eager = partial(_mapped, **signals)
        stock: dict[str, Function] = {"vmap": eager}
        if not dry:
            stock[f"vmap, {COMPILED}"] = compiled(eager)
        ours = partial(multitask_distillation, **signals, **TERMS)
        yield from both_directions(
            "multitask_distillation", f"N {models} B {batch} k {tasks}", [logits], ours, stock
        )


def _mapped(logits: Tensor, **signals: Any) -> Tensor:
    return torch.func.vmap(lambda one: reference(one, **signals, **TERMS))(logits)
