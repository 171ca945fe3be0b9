"""Dense parameters split among processes: torch's FSDP2 around the model, whole tensors for who saves or loads.

Every process keeps a part of each parameter, of its gradient and of its optimiser's state; the parameters are gathered
for the model's forward pass and stay until the backward pass has ended. The tables are no parameters
(`kernels.embedding`) and stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def split_dense(model: nn.Module) -> None:
    """Split a model's parameters among all processes; a collective call.

    Args:
        model: the same in all of them, not trained yet. Its `state_dict` goes on giving and taking whole tensors.
    """
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    model.register_state_dict_post_hook(_give_whole)
    model.register_load_state_dict_pre_hook(_take_whole)


def is_split(model: nn.Module) -> bool:
    """Whether the parameters of a module, or of a part of it, are split."""
    return any(isinstance(part, FSDPModule) for part in model.modules())  # they may be gathered just now


def keep_state_whole(optimizer: Optimizer) -> None:
    """Let an optimiser's `state_dict` give and take whole tensors, whatever its parameters are; collective calls."""
    optimizer.register_state_dict_post_hook(_give_whole_state)
    optimizer.register_load_state_dict_pre_hook(_take_whole_state)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may have a part; a collective call if so."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _give_whole(model: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for name, tensor in state.items():
        state[name] = whole(tensor)


def _take_whole(model: nn.Module, state: dict[str, Any], prefix: str, *others: object) -> None:
    for name, parameter in model.named_parameters():
        key = prefix + name
        if key in state:
            state[key] = _part(state[key], parameter)


def _give_whole_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    state["state"] = {
        number: {name: whole(value) for name, value in of_one.items()}
        for number, of_one in state["state"].items()
    }


def _take_whole_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        **state,
        "state": {number: _parts(of_one, parameters[number]) for number, of_one in state["state"].items()},
    }


def _parts(state: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """An optimiser's state of one parameter: what has its shape is split as it is, counts stay."""
    return {
        name: _part(value, parameter) if torch.is_tensor(value) and value.shape == parameter.shape else value
        for name, value in state.items()
    }


def _part(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, where `like` is one."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements)
