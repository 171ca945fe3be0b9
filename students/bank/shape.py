"""What students must have in common to be trained as one: all that is not a parameter, a table or a seed.

The bank runs the first member's forward pass for everybody. So whatever that pass may read beside the parameters has to
be the same for all: the layers and their settings, plain attributes, constants, the schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from distill.config import OptimizerConfig
from students.base import Student

OWN = ("seed", "training")
"""Attributes in which members may differ."""


def shape_of(student: Student, optimizer: OptimizerConfig) -> dict[str, Any]:
    """What all members of a bank must have in common.

    Args:
        student: as it is before its first step, with its tables.
        optimizer: how it is trained.

    Returns:
        Name of each part, as it is written in messages, to a value that is compared by `==`.
    """
    kind = type(student)
    shape = {"architecture": kind.__qualname__, "module": kind.__module__} | dict(_parts(student))
    shape["parameters"] = {name: _form(parameter) for name, parameter in student.named_parameters()}
    shape["negative_sampling"] = student.negative_sampling
    shape["width of the tables"] = student.tables.dim
    shape["table sizes"] = {name: student.schema.sparse[name].size for name in student.features}
    shape["batch_size"] = optimizer.batch_size
    return shape


def _parts(student: Student) -> Iterator[tuple[str, Any]]:
    for name, module in student.named_modules():
        if name.split(".")[0] == "tables":
            continue
        before = f"{name}." if name else ""
        if name:
            yield f"layer '{name}'", f"{type(module).__module__}.{type(module).__qualname__}"
            yield f"layer '{name}' settings", module.extra_repr()
        for attribute, value in vars(module).items():
            if attribute not in OWN and not attribute.startswith("_"):
                yield from _plain(f"{before}{attribute}", value)
        for buffer, tensor in module.named_buffers(recurse=False):
            yield f"{before}{buffer}", _constant(tensor)


def _plain(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """An attribute; a dataclass, such as the schema, field by field."""
    if not is_dataclass(value) or isinstance(value, type):
        yield name, _comparable(value)
        return
    for part in fields(value):
        if part.compare:
            yield f"{name}.{part.name}", _comparable(getattr(value, part.name))


def _comparable(value: Any) -> Any:
    """A value by its contents; a function, a class and any other object by the name of what it is."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, Tensor):
        return _constant(value)
    if isinstance(value, list | tuple):
        return tuple(map(_comparable, value))
    if isinstance(value, set | frozenset):
        return frozenset(map(_comparable, value))
    if isinstance(value, Mapping):
        return {key: _comparable(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return dict(_plain(type(value).__qualname__, value))
    return getattr(value, "__qualname__", type(value).__qualname__)


def _form(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def _constant(tensor: Tensor) -> str:
    """A constant by its form and contents."""
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {list(tensor.shape)} of hash {hashlib.sha256(content).hexdigest()[:12]}"
