"""Tensors on disk: one safetensors file, never pickle, that carries a checksum of each of its tensors.

A byte that changed is noticed when the tensor that holds it is read, however little of the file that is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from distill.errors import UserError
from distill.files import atomic_path

HEADER = "facts"
"""The one entry of safetensors' metadata, as JSON: facts and checksums, with a checksum of their own. Two entries would
lie in random order, and two files of the same content would differ."""
OLD_HEADER = "meta"
"""The same of files that were written before there were checksums: the facts alone."""

_LOG = logging.getLogger(__name__)


class TensorFile:
    """An open file.

    Args:
        path: of the file.
        handle: safetensors' own.

    Attributes:
        meta: the facts beside the tensors.

    Raises:
        UserError: the facts, or the checksums themselves, were changed.
    """

    def __init__(self, path: Path, handle: Any):
        self.path, self._handle = path, handle
        self._names = tuple(sorted(handle.keys()))
        self.meta, self._checksums = self._read_header(handle.metadata() or {})

    def keys(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return self._names

    def tensor(self, name: str) -> Tensor:
        """One of them.

        Raises:
            UserError: it is not what was written.
        """
        tensor = self._handle.get_tensor(name)
        if self._checksums is not None and _checksum(tensor) != self._checksums[name]:
            raise damaged(self.path, f"the checksum of '{name}' is not its own")
        return tensor

    def _read_header(self, header: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str] | None]:
        """Facts, and checksums by the names of the tensors."""
        old = OLD_HEADER in header
        try:
            found = json.loads(header[OLD_HEADER if old else HEADER])
            content, checksum = (found, None) if old else (found["content"], found["checksum"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(self.path, f"no readable facts in it: {error!r}") from error
        if old:
            _LOG.warning("%s: written before such files had checksums; it is read unchecked", self.path)
            return content, None
        if _of_json(content) != checksum:
            raise damaged(self.path, "its facts are not those that were written")
        if foreign := content["tensors"].keys() ^ set(self._names):
            raise damaged(self.path, f"tensors are missing or foreign: {', '.join(sorted(foreign))}")
        return content["meta"], content["tensors"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a file beside its place, and put it there when it is whole.

    Args:
        path: a `.safetensors` file; its folder is made.
        tensors: by name.
        meta: facts to keep beside them, as JSON can say them.

    Raises:
        UserError: the disk is full.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = {"meta": dict(meta), "tensors": {name: _checksum(tensor) for name, tensor in whole.items()}}
    header = json.dumps({"content": content, "checksum": _of_json(content)}, sort_keys=True)
    with atomic_path(path) as temporary:
        try:
            save_file(whole, temporary, metadata={HEADER: header})
        except SafetensorError as error:
            raise _as_os_error(error) from error


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open what `write_tensors` wrote.

    Args:
        path: of a file that is there.

    Raises:
        UserError: it is cut off or damaged; inside, when a tensor is read that is.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            yield TensorFile(path, handle)
    except SafetensorError as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> UserError:
    """What to say of a file that cannot be used."""
    return UserError(
        f"{path}: cut off or damaged ({why}). Remove it and repeat the command that wrote it: `distill run` trains "
        "again what is missing."
    )


def _checksum(tensor: Tensor) -> str:
    """sha256 (hex) of type, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _of_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _as_os_error(error: SafetensorError) -> OSError:
    """What the system said, which safetensors has only in its text."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number.group(1)) if number else errno.EIO, str(error))
