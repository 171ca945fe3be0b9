"""Losses of labels, of a teacher's soft labels and of its logits, of all tasks, in one operator."""

from __future__ import annotations

from kernels.multitask_distillation.op import multitask_distillation

__all__ = ["multitask_distillation"]
