"""A nested state taken apart: its tensors by name, and all else as JSON that says where each of them stood.

Nothing is pickled, so that nothing is run when a state is read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tree = Any
"""What JSON can say; mappings, tuples and tensors are objects with one key that names the kind."""


def take_apart(state: Any) -> tuple[Tree, dict[str, Tensor]]:
    """Separate the tensors of a state from its shape.

    Args:
        state: mappings (keys texts or whole numbers), lists, tuples, tensors, numpy arrays, texts, numbers, None.

    Returns:
        The shape, and the tensors by the names that it refers to. They are the state's own, not copies.

    Raises:
        TypeError: anything else, by the place where it stands.
    """
    tensors: dict[str, Tensor] = {}
    return _apart(state, "", tensors), tensors


def put_together(tree: Tree, tensors: Mapping[str, Tensor]) -> Any:
    """The state that `take_apart` took apart.

    Args:
        tree: its shape.
        tensors: by name; handed out as they are.

    Raises:
        KeyError: a tensor is missing, or a kind is not known.
    """
    if isinstance(tree, list):
        return [put_together(part, tensors) for part in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "tuple":
        return tuple(put_together(part, tensors) for part in content)
    if kind == "mapping":
        return {key: put_together(part, tensors) for key, part in content}
    raise KeyError(kind)


def _apart(state: Any, place: str, tensors: dict[str, Tensor]) -> Tree:
    if isinstance(state, Tensor):
        return {"tensor": _keep(state.detach(), place, tensors)}
    if isinstance(state, np.ndarray):
        return {"array": _keep(torch.from_numpy(state), place, tensors)}
    if isinstance(state, Mapping):
        return {"mapping": [[key, part] for key, part in _mapping(state, place, tensors)]}
    if isinstance(state, list | tuple):
        parts = [_apart(part, f"{place}/{index}", tensors) for index, part in enumerate(state)]
        return {"tuple": parts} if isinstance(state, tuple) else parts
    if state is None or isinstance(state, str | int | float):
        return state
    raise TypeError(f"state{place}: got {type(state).__name__}, allowed: tensors and what JSON can say")


def _mapping(state: Mapping[Any, Any], place: str, tensors: dict[str, Tensor]) -> Iterator[tuple[Any, Tree]]:
    for key, part in state.items():
        if not isinstance(key, str | int):
            raise TypeError(f"state{place}: got the key {key!r}, allowed: texts and whole numbers")
        yield key, _apart(part, f"{place}/{key}", tensors)


def _keep(tensor: Tensor, place: str, tensors: dict[str, Tensor]) -> str:
    """Names are places; two keys of one mapping that read the same, such as 1 and "1", would share one."""
    name = place.lstrip("/")
    assert name not in tensors, f"two tensors at '{name}'"
    tensors[name] = tensor
    return name
