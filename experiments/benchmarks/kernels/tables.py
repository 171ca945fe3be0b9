"""Cases of the embedding tables, whose backward pass updates them: the front against fbgemm's operator itself.

What fbgemm looks up are zeros, since its tables start as such; nothing is compared but time. CPU only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torchrec import KeyedJaggedTensor

from experiments.benchmarks.kernels.case import OURS, UPDATE, Case
from kernels.embedding import EmbeddingTables

SIZES = {"cpu": (20, 20_000, 16, 512, 10_000), "dry": (3, 10, 4, 5, 7)}
"""Features, rows of a table, width, examples, history events."""


def embedding(device: str, dtype: torch.dtype, dry: bool) -> Iterator[Case]:
    """One id a feature and example, then the same with a history; arguments as of `attention`."""
    if device != "cpu":
        return
    features, rows, width, batch, events = SIZES["dry" if dry else device]
    names = [f"feature_{place}" for place in range(features)]
    ids, history = torch.randint(rows, (features, batch)), torch.randint(rows, (events,))
    lengths = torch.ones(features * batch, dtype=torch.int64)
    sparse = KeyedJaggedTensor(names, ids.view(-1), lengths=lengths, stride=batch)
    front = EmbeddingTables(dict.fromkeys(names, rows), width, 0, 0.02, history_feature=names[0])
    per_feature, in_one, of_history = (
        _fbgemm(list(range(features)), rows, width),
        _fbgemm([0] * features, rows * features, width),
        _fbgemm([0], rows, width),
    )
    moved = (ids + rows * torch.arange(features)[:, None]).view(-1)

    def ours(past: Tensor | None) -> tuple[Tensor, ...]:
        found = front(sparse, past)
        outputs = [out for out in (found.features, found.events) if out is not None]
        torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])
        return ()

    def two_calls() -> tuple[Tensor, ...]:
        _step(per_feature, ids.view(-1))
        return _step(of_history, torch.cat([ids[0], history]))

    name = f"{features} tables x {rows} x {width} B {batch}"
    without = {
        OURS: lambda: ours(None),
        "fbgemm, a table per feature": lambda: _step(per_feature, ids.view(-1)),
        "fbgemm, all rows in one table": lambda: _step(in_one, moved),
    }
    # Rows are read, gradients of that size too, and rows read and written by the update.
    size = 4 * 4 * width
    yield Case("embedding", name, UPDATE, torch.float32, without, 0, size * ids.numel())
    both = {OURS: lambda: ours(history), "fbgemm, two calls": two_calls}
    yield Case(
        "embedding", f"{name} T {events}", UPDATE, torch.float32, both, 0, size * (ids.numel() + events)
    )


def _fbgemm(tables: list[int], rows: int, width: int) -> SplitTableBatchedEmbeddingBagsCodegen:
    """A table for each number in `tables`, which says for every feature where it looks."""
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, width, EmbeddingLocation.HOST, ComputeDevice.CPU)] * len(set(tables)),
        feature_table_map=tables,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.02,
    )


def _step(tables: SplitTableBatchedEmbeddingBagsCodegen, ids: Tensor) -> tuple[Tensor, ...]:
    found = tables(ids, torch.arange(ids.numel() + 1))
    found.backward(torch.ones_like(found))
    return ()
