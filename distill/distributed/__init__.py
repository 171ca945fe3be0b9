"""Several processes train one model: each on its share of every global batch, all with the same result.

Tables are shared as `kernels.table_sharding` says; of dense parameters each process has a copy, or with `split_dense` a
part.
"""

from __future__ import annotations

from distill.distributed.dense import is_split, keep_state_whole, split_dense, whole
from distill.distributed.gather import rows_of_all, whole_batch
from distill.distributed.share import (
    Share,
    batch_of_share,
    is_first,
    mean_of_all,
    process_number,
    processes,
    refuse_together,
    share_of_labels,
)
from distill.distributed.strategy import AveragingStrategy

__all__ = [
    "AveragingStrategy",
    "Share",
    "batch_of_share",
    "is_first",
    "is_split",
    "keep_state_whole",
    "mean_of_all",
    "process_number",
    "processes",
    "refuse_together",
    "rows_of_all",
    "share_of_labels",
    "split_dense",
    "whole",
    "whole_batch",
]
