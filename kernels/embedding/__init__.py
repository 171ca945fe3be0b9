"""Embedding tables behind one front: sharded, fused row-wise AdaGrad, features and history in one look-up."""

from __future__ import annotations

from kernels.embedding import quiet  # noqa: F401  before the first KeyedJaggedTensor
from kernels.embedding.process_group import ensure_process_group
from kernels.embedding.tables import Embedded, EmbeddingTables, dense_parameters

__all__ = ["Embedded", "EmbeddingTables", "dense_parameters", "ensure_process_group"]
