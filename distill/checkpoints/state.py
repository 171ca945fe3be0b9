"""All that the next step of a training depends on, and back again.

The model with the rows and AdaGrad moments of its tables, the channels with their own optimisers, and the dense
optimiser are the same in all processes that train together; random generators and what was counted are each process's
own. Where in its days the training stands is the business of `distill.checkpoints.saver`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from distill.distributed.share import process_number, processes
from distill.errors import UserError
from distill.module import DistillModule
from distill.protocols import Channel

State = dict[str, Any]


def capture(module: DistillModule, optimizers: Sequence[Optimizer]) -> State:
    """The state between two steps, the same in all processes, each of which must call it; its tensors may be the
    training's own and change with it.

    Args:
        module: model and channels.
        optimizers: of the dense parameters, those that the trainer steps.
    """
    return {
        "trained": {name: dict(part.state_dict()) for name, part in module.trained().items()},
        "channels": {
            name: {"parameters": dict(channel.state_dict()), "training": channel.training_state()}
            for name, channel in _channels(module).items()
        },
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }


def restore(module: DistillModule, state: Mapping[str, Any]) -> None:
    """Put model and channels back; optimiser and generators are the trainer's to time.

    Args:
        module: built with the settings of the one that was captured.
        state: what `capture` gave.

    Raises:
        UserError: the state is of other code.
    """
    trained, channels = module.trained(), _channels(module)
    for kind, parts in (("trained", trained), ("channels", channels)):
        if parts.keys() != state[kind].keys():
            raise _other_code(f"{kind} {', '.join(state[kind])}")
    for name, part in trained.items():
        _load(part, state["trained"][name])
    for name, channel in channels.items():
        _load(channel, state["channels"][name]["parameters"])
        channel.load_training_state(state["channels"][name]["training"])


def capture_own(module: DistillModule) -> State:
    """The part of the state that belongs to this process."""
    return {"random": random_state(), "counted": module.counted()}


def own_of(saved: Sequence[State]) -> State:
    """This process's part of what some processes saved, each by `capture_own`.

    Where there were as many, it is what this one saved itself. Otherwise sums, of which the mean over processes is
    reported, are all set to that mean, and a process that there was not has its generators as they are.
    """
    number = process_number()
    if len(saved) == processes():
        return saved[number]
    sums = [own["counted"]["sums"] for own in saved]
    means = {name: sum(of[name] for of in sums) / len(sums) for name in sums[0]}
    random = saved[number]["random"] if number < len(saved) else random_state()
    return {"random": random, "counted": {**saved[0]["counted"], "sums": means}}


def random_state() -> State:
    """Of the global generators of torch, numpy and Python; the project's own are made anew from seeds."""
    return {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def _channels(module: DistillModule) -> dict[str, Channel]:
    found = {}
    for name, channel in module.channels.items():
        assert isinstance(channel, Channel)
        found[name] = channel
    return found


def _load(part: nn.Module, state: Mapping[str, Any]) -> None:
    try:
        part.load_state_dict(state)
    except RuntimeError as error:
        raise _other_code(str(error)) from error


def _other_code(what: str) -> UserError:
    return UserError(
        f"checkpoint: got a state that does not fit the model ({what}), allowed: one that this code wrote. Remove the "
        "training's checkpoints, or go back to the code that wrote them."
    )
