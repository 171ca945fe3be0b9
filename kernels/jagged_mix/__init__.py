"""A matrix of each example's own, applied to every token of that example, whatever their number."""

from __future__ import annotations

from kernels.jagged_mix.op import jagged_mix

__all__ = ["jagged_mix"]
