"""Lightning's strategy for several processes: dense gradients are averaged between backward pass and step.

The tables need nothing here, torchrec averages their gradients in the backward pass. `DistributedDataParallel` would
have to wrap the training step with its channels to see every gradient; one flat sum after it is the same algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from distill.lean import LeanStrategy


class AveragingStrategy(LeanStrategy):
    """`LeanStrategy` in each of several processes. To Lightning each trains alone: streams hand out the shares."""

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: L.LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        def averaged() -> Any:
            loss = closure()
            average_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])
            return loss

        return super().optimizer_step(optimizer, averaged, model, **kwargs)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over processes; a collective call.

    Args:
        parameters: the same in all processes. One that no process has a gradient of keeps none; one that this process
            has none of counts as 0.
    """
    parameters = list(parameters)
    there = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
    flat = torch.cat([*(_gradient(parameter).flatten() for parameter in parameters), there])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    *means, anywhere = flat.split([*(parameter.numel() for parameter in parameters), len(parameters)])
    for parameter, mean, found in zip(parameters, means, anywhere.tolist(), strict=True):
        parameter.grad = mean.view_as(parameter) if found else None


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
