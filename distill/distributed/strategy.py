"""Lightning's strategy for several processes: dense gradients are averaged between backward pass and step.

The tables average theirs in the backward pass, and so do parameters that are split (`distill.distributed.dense`).
`DistributedDataParallel` would have to wrap the training step with its channels to see every gradient; one flat sum
after it is the same algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from distill.distributed.dense import is_split
from distill.lean import LeanStrategy
from kernels.embedding import EmbeddingTables


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

        done = super().optimizer_step(optimizer, averaged, model, **kwargs)
        for tables in self._tables:
            tables.average_copies()
        return done

    def setup(self, trainer: L.Trainer) -> None:
        super().setup(trainer)
        assert self.lightning_module is not None
        self._tables = [part for part in self.lightning_module.modules() if isinstance(part, EmbeddingTables)]

    def teardown(self) -> None:
        assert self.lightning_module is not None
        # Lightning would move everything to the CPU, which FSDP2 refuses where a pass was broken off by an error.
        if not is_split(self.lightning_module):
            super().teardown()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over processes; a collective call.

    Args:
        parameters: the same in all processes. One that no process has a gradient of keeps none; one that this process
            has none of counts as 0; one that is split has its mean already.
    """
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    there = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
    flat = torch.cat([*(_gradient(parameter).flatten() for parameter in parameters), there])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    *means, anywhere = flat.split([*(parameter.numel() for parameter in parameters), len(parameters)])
    for parameter, mean, found in zip(parameters, means, anywhere.tolist(), strict=True):
        parameter.grad = mean.view_as(parameter) if found else None


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
