"""Several processes train one model: each on its share of every global batch, all with the same result.

Tables are split by rows among the processes (`kernels.embedding`), dense parameters are the same in all of them.
"""

from __future__ import annotations

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
    "mean_of_all",
    "process_number",
    "processes",
    "refuse_together",
    "rows_of_all",
    "share_of_labels",
    "whole_batch",
]
