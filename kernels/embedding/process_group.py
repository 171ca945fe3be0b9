"""The process group that sharded tables need, also where there is only one process."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def ensure_process_group() -> dist.ProcessGroup:
    """The default process group; made here unless somebody has made it already.

    Under torchrun (its variables are in the environment) the group is torchrun's. Otherwise it is this
    process alone, met through a store in its own memory: no port, file or variable is needed.
    """
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if all(name in os.environ for name in TORCHRUN):
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    group = dist.group.WORLD
    assert group is not None
    return group
