"""Attention over jagged rows: every example attends within itself, whatever its length."""

from __future__ import annotations

from kernels.jagged_attention.op import ACTIVATIONS, jagged_attention

__all__ = ["ACTIVATIONS", "jagged_attention"]
