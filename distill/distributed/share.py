"""A process's share of a global batch, and what makes the mean over processes the loss of the whole batch.

Shape letters: B examples of a share, k tasks, W processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from distill.errors import UserError

if TYPE_CHECKING:
    from distill.protocols import Channel


def processes() -> int:
    """W, processes that train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_number() -> int:
    """Of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """True in the process that writes files, and where there is one alone."""
    return process_number() == 0


def refuse_together(channels: Mapping[str, Channel]) -> None:
    """Refuse what several processes cannot train as one.

    Args:
        channels: that the model is trained with, by name.

    Raises:
        UserError: several processes, and a channel whose loss or steps would know a share of the batch alone.
    """
    alone = [name for name, channel in channels.items() if not channel.shares_batches]
    if alone and processes() > 1:
        raise UserError(
            f"channels: got {', '.join(alone)} with {processes()} processes, allowed: none. Train it in one "
            "process; several of them train side by side there (`workers`, `--on ray`)"
        )


@dataclass(frozen=True)
class Share:
    """What a process contributes to a step.

    Attributes:
        task_weights: float32 [k], factors of the share's mean losses, so that their mean over processes is the mean
            over the labels of the whole batch; None for 1.
        examples: of the whole batch.
    """

    task_weights: Tensor | None
    examples: int


def share_of_labels(mask: Tensor) -> Callable[[], Share]:
    """Begin to count which share of a step some labels are; a collective call where there are several processes.

    A share's mean counts n of the N labels of a task: its weight is n W / N. A task without a label anywhere weighs 0.

    Args:
        mask: bool [B, k], the labels known in this share.

    Returns:
        What waits for the other processes and gives the share; the later it is called, the shorter the wait.
    """
    if processes() == 1:
        return lambda: Share(None, len(mask))
    known = torch.cat([mask.sum(0), mask.new_tensor([len(mask)], dtype=torch.int64)])
    of_all = known.clone()
    counting = dist.all_reduce(of_all, async_op=True)

    def counted() -> Share:
        counting.wait()
        weights = known[:-1] * processes() / of_all[:-1].clamp_min(1)
        return Share(weights.float(), int(of_all[-1]))

    return counted


def batch_of_share(batch_size: int) -> int:
    """Examples a step of one process, of a global batch.

    Raises:
        UserError: the processes cannot have equal shares.
    """
    share, rest = divmod(batch_size, processes())
    if rest or not share:
        raise UserError(
            f"optimizer.batch_size: got {batch_size} with {processes()} processes, allowed: a multiple of their number"
        )
    return share


def mean_of_all(values: Mapping[str, float]) -> dict[str, float]:
    """Means over processes of numbers that each has by the same names; a collective call where there are several."""
    if processes() == 1:
        return dict(values)
    numbers = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(numbers)
    return dict(zip(values, (numbers / processes()).tolist(), strict=True))
