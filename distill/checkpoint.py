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

import torch
from torch import Tensor, nn

from distill.distributed.share import is_first
from distill.errors import UserError
from distill.protocols import Architecture
from distill.tensor_file import open_tensors, write_tensors

CHANNELS, TABLES = "channels.", "tables."
"""Before the names of tensors that are no part of the model, and of those of its embedding tables."""


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
    tensors, meta = _read(path)
    _take_over(_parts(model, channels), tensors, path)
    return meta


def start_model(model: Architecture, path: Path, channels: Mapping[str, nn.Module]) -> None:
    """Begin with the parameters of a model that was trained before, on data with fewer ids perhaps.

    A table keeps the file's rows and moments, in their places; rows beyond them stay as the model was built.

    Args:
        model: the architecture, built with the same settings but for the rows of its tables.
        path: what `save_model` wrote.
        channels: by name; those that the file holds are read as well.

    Raises:
        UserError: as of `load_model`; a table that has fewer rows than the file.
    """
    tensors, _ = _read(path)
    held = {
        name: part
        for name, part in channels.items()
        if any(tensor.startswith(f"{CHANNELS}{name}.") for tensor in tensors)
    }
    own = model.state_dict()
    grown = {
        name: _grown(own[name], tensor, name, path)
        for name, tensor in tensors.items()
        if name.startswith(TABLES) and name in own and own[name].shape[1:] == tensor.shape[1:]
    }
    _take_over(_parts(model, held), tensors | grown, path)


def _grown(own: Tensor, found: Tensor, name: str, path: Path) -> Tensor:
    """The file's rows, then those that it does not have."""
    if len(found) > len(own):
        feature = name.removeprefix(TABLES).rpartition(".")[0]
        raise UserError(
            f"start: {name}: got {len(found)} rows in {path}, allowed: at most {len(own)}, as the data have. A table "
            f"may grow, but loses no id: give '{feature}' at least {len(found)} values in the data's schema."
        )
    return torch.cat([found, own[len(found) :]])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file."""
    if not path.is_file():
        raise UserError(
            f"checkpoint: no file {path}. Train the model first (`distill teacher` or `distill run`)."
        )
    with open_tensors(path) as file:
        return {name: file.tensor(name) for name in file.keys()}, file.meta


def _take_over(parts: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into the parts whose names they begin with."""
    states = {prefix: part.state_dict() for prefix, part in parts.items()}
    own = {prefix + name: tensor for prefix, state in states.items() for name, tensor in state.items()}
    asked = tuple(prefix for prefix in parts if prefix)
    found = {n: t for n, t in tensors.items() if n.startswith(asked) or not n.startswith(CHANNELS)}
    _refuse_other_shapes(own, found, path)
    for prefix, part in parts.items():
        part.load_state_dict({name: found[prefix + name] for name in states[prefix]})


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
