"""Wukong's interaction block: factorization machine of low rank, and the linear compression beside it."""

from __future__ import annotations

from kernels.wukong_fm.op import wukong_fm

__all__ = ["wukong_fm"]
