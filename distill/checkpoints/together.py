"""What several processes that train together agree upon, so that all save after the same step and go on from it.

With one process nothing is asked of anybody.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from distill.distributed.share import processes

_NOTHING = -1


def agree(signal: int | None, due: bool) -> tuple[int | None, bool]:
    """What any of the processes was told; a collective call where there are several.

    Args:
        signal: that this process was asked to stop by.
        due: True when it wants a checkpoint.

    Returns:
        A signal that a process was asked to stop by, and whether one of them wants a checkpoint.
    """
    if processes() == 1:
        return signal, due
    told = torch.tensor([_NOTHING if signal is None else signal, int(due)])
    dist.all_reduce(told, dist.ReduceOp.MAX)
    number, wanted = told.tolist()
    return None if number == _NOTHING else number, bool(wanted)


def from_first(number: int | None) -> int | None:
    """A number, 0 or more, that the first process has; a collective call where there are several."""
    if processes() == 1:
        return number
    told = torch.tensor(_NOTHING if number is None else number)
    dist.broadcast(told, src=0)
    return None if told == _NOTHING else int(told)


def wait_for_all() -> None:
    """Until every process has come here."""
    if processes() > 1:
        dist.barrier()
