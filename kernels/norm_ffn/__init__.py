"""Layer norm, feed-forward block or gated linear unit, and the residual around them, in one operator."""

from __future__ import annotations

from kernels.norm_ffn.op import norm_ffn

__all__ = ["norm_ffn"]
