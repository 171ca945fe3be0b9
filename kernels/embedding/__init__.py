"""Embedding tables behind one front: sharded, fused row-wise AdaGrad, features and history in one look-up.

`EmbeddingTables` are one model's, `WideTables` those of N models that read the same ids.
"""

from __future__ import annotations

from kernels.embedding import quiet  # noqa: F401  before the first KeyedJaggedTensor
from kernels.embedding.placement import sharded
from kernels.embedding.process_group import ensure_process_group
from kernels.embedding.tables import Embedded, EmbeddingTables, dense_parameters
from kernels.embedding.wide import WideTables
from kernels.embedding.wide_bags import History

__all__ = [
    "Embedded",
    "EmbeddingTables",
    "History",
    "WideTables",
    "dense_parameters",
    "ensure_process_group",
    "sharded",
]
