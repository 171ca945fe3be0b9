"""Several gloo processes that do the same: `launch` starts them and brings back what each returned."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.forked import context

SECONDS = 120
"""So long may they take: a process that waits for one that has failed would wait for ever."""


def launch(number: int, folder: Path, function: Callable[..., dict[str, Any]], *arguments: Any) -> list[Any]:
    """What every process returned.

    Args:
        number: of processes.
        folder: for their results.
        function: of a module, called in each of them with the arguments, inside a process group; gives tensors and
            texts by name.
        arguments: of the function.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    files = [folder / f"{rank}-of-{number}.pt" for rank in range(number)]
    forked = context()
    started = [
        forked.Process(target=_one_of, args=(rank, number, address, file, function, arguments))
        for rank, file in enumerate(files)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS)
    assert [process.exitcode for process in started] == [0] * number
    return [torch.load(file) for file in files]


def _one_of(
    rank: int,
    number: int,
    address: str,
    file: Path,
    function: Callable[..., dict[str, Any]],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", address, rank=rank, world_size=number)
    torch.save(function(*arguments), file)
    dist.barrier()
    dist.destroy_process_group()  # left standing, gloo's threads abort the process at its end
