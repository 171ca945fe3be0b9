"""A model on disk: one safetensors file, never pickle, written beside its place and renamed.

It holds what `state_dict` says: dense parameters, and under `tables.` the rows with their AdaGrad moments.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from distill.errors import UserError
from distill.files import atomic_path
from distill.protocols import Architecture


def save_model(model: Architecture, path: Path, meta: Mapping[str, Any]) -> None:
    """Write the parameters of a model.

    Args:
        model: any architecture.
        path: a `.safetensors` file; its folder is made.
        meta: facts to keep beside the tensors, such as `trained_through`.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"meta": json.dumps(dict(meta), sort_keys=True)})
        except SafetensorError as error:
            raise _as_os_error(error) from error


def load_model(model: Architecture, path: Path) -> dict[str, Any]:
    """Read parameters into a model of the same shape.

    Args:
        model: the architecture, built with the same settings.
        path: what `save_model` wrote.

    Returns:
        The `meta` that was saved.

    Raises:
        UserError: no such file, one that is damaged, or its tensors are not those of the model.
    """
    if not path.is_file():
        raise UserError(
            f"checkpoint: no file {path}. Train the model first (`distill teacher` or `distill run`)."
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            meta = json.loads((file.metadata() or {}).get("meta", "{}"))
    except SafetensorError as error:
        raise UserError(
            f"checkpoint {path}: cut off or damaged ({error}). Remove it and train again."
        ) from error
    _refuse_other_shapes(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)
    return meta


def _as_os_error(error: SafetensorError) -> OSError:
    """What the system said, which safetensors has only in its text."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number.group(1)) if number else errno.EIO, str(error))


def _refuse_other_shapes(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    for name in sorted(own.keys() | found.keys()):
        got = tuple(found[name].shape) if name in found else "nothing"
        allowed = tuple(own[name].shape) if name in own else "nothing"
        if got != allowed:
            raise UserError(
                f"checkpoint {path}: {name}: got {got}, allowed: {allowed}. It was written by a model with other "
                "settings; train again or restore the settings."
            )


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
