"""A model on disk: one file of tensors (`distill.tensor_file`), written beside its place and renamed.

It holds what `state_dict` says: dense parameters, and under `tables.` the rows with their AdaGrad moments. What
belongs to the same moment, such as the autoencoder of the teacher's representations, lies in the same file, under
`channels.<name>.`, so that one hash and one rename cover both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill.distributed.share import is_first
from distill.errors import UserError
from distill.protocols import Architecture
from distill.tensor_file import open_tensors, write_tensors

CHANNELS = "channels."
"""Before the names of tensors that are no part of the model."""


def save_model(
    model: Architecture, path: Path, meta: Mapping[str, Any], channels: Mapping[str, nn.Module] | None = None
) -> None:
    """Write the parameters of a model. Of several processes each must call it, and the first one writes.

    Args:
        model: any architecture.
        path: a `.safetensors` file; its folder is made.
        meta: facts to keep beside the tensors, such as `trained_through`.
        channels: by name, modules to keep in the same file.
    """
    assert not hasattr(model, CHANNELS[:-1]), f"a part of the model is named {CHANNELS[:-1]}"
    tensors = {
        prefix + name: tensor
        for prefix, part in _parts(model, channels).items()
        for name, tensor in part.state_dict().items()
    }
    if is_first():
        write_tensors(path, tensors, meta)


def load_model(
    model: Architecture, path: Path, channels: Mapping[str, nn.Module] | None = None
) -> dict[str, Any]:
    """Read parameters into a model of the same shape.

    Args:
        model: the architecture, built with the same settings.
        path: what `save_model` wrote.
        channels: by name, modules to read as well; others in the file are left alone.

    Returns:
        The `meta` that was saved.

    Raises:
        UserError: no such file, one that is damaged, or its tensors are not those of the model.
    """
    if not path.is_file():
        raise UserError(
            f"checkpoint: no file {path}. Train the model first (`distill teacher` or `distill run`)."
        )
    with open_tensors(path) as file:
        tensors, meta = {name: file.tensor(name) for name in file.keys()}, file.meta
    parts = _parts(model, channels)
    states = {prefix: part.state_dict() for prefix, part in parts.items()}
    own = {prefix + name: tensor for prefix, state in states.items() for name, tensor in state.items()}
    asked = tuple(prefix for prefix in parts if prefix)
    found = {n: t for n, t in tensors.items() if n.startswith(asked) or not n.startswith(CHANNELS)}
    _refuse_other_shapes(own, found, path)
    for prefix, part in parts.items():
        part.load_state_dict({name: found[prefix + name] for name in states[prefix]})
    return meta


def _parts(model: Architecture, channels: Mapping[str, nn.Module] | None) -> dict[str, nn.Module]:
    """What a file holds, by the beginning of its tensors' names."""
    return {"": model, **{f"{CHANNELS}{name}.": channel for name, channel in (channels or {}).items()}}


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
