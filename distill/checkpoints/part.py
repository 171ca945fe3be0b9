"""One part of a checkpoint in a folder: tensors by torch.distributed.checkpoint, as safetensors, and their shape as
JSON. Each part is written and read by a process alone.

torch.distributed.checkpoint's own format keeps its metadata as a pickle; its writer of safetensors keeps none.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from distill.checkpoints.tree import put_together, take_apart
from kernels.embedding import ensure_process_group

TREE = "state.json"
"""Beside the tensors: how they belong together, and what is no tensor."""


def write_part(folder: Path, state: Any) -> None:
    """Write a nested state.

    Args:
        folder: to be made.
        state: what `distill.checkpoints.tree` can take apart.

    Raises:
        OSError: what the system says of the disk.
    """
    tree, tensors = take_apart(state)
    folder.mkdir(parents=True)
    (folder / TREE).write_text(json.dumps(tree))
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with _alone():
            dcp.save(_separate(tensors), storage_writer=writer, no_dist=True)
    except CheckpointException as error:
        raise _first(error) from error


def read_part(folder: Path) -> Any:
    """The state that `write_part` wrote.

    Args:
        folder: whose files are known to be whole.
    """
    reader = HuggingFaceStorageReader(str(folder))
    tensors = {}
    for name, found in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(found, TensorStorageMetadata), f"{name} is no tensor"
        tensors[name] = torch.empty(found.size, dtype=found.properties.dtype)
    with _alone():
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return put_together(json.loads((folder / TREE).read_text()), tensors)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without gaps, a memory of its own for each: safetensors refuses others, such as the ids that the
    members of a bank recorded of one batch."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        memory = whole.untyped_storage().data_ptr()
        separate[name] = whole.clone() if memory in seen else whole
        seen.add(memory)
    return separate


@contextmanager
def _alone() -> Iterator[None]:
    """Without the warning that a process works alone."""
    ensure_process_group()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _first(error: CheckpointException) -> BaseException:
    """What went wrong in the first process that failed."""
    return next(iter(error.failures.values()))[0]
