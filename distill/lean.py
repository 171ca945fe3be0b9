"""Lightning with less between two steps: a student's step is milliseconds, and a tenth of it went into empty hooks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

F = TypeVar("F", bound=Callable[..., Any])


class LeanStrategy(SingleDeviceStrategy):
    """One device, where of Lightning's hooks inside a step only those are called that the module has.

    Between the training step and the end of the batch that is `backward` and `on_before_optimizer_step`: no callback
    may listen there. Batches go to the device by their own `to`. There is no scaling of gradients (float16).
    """

    def batch_to_device(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        return batch.to(device or self.root_device)

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        self._module.backward(closure_loss, *args, **kwargs)
        return closure_loss.detach()

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: L.LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        loss = closure()
        self._module.on_before_optimizer_step(optimizer)
        optimizer.step(**kwargs)
        return loss

    @property
    def _module(self) -> L.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module


class NoProfiler(PassThroughProfiler):
    """Measures nothing, as Lightning's default, but without making a new context for each of a step's many hooks."""

    _nothing: AbstractContextManager = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager:  # type: ignore[override]
        return self._nothing


def with_signature(function: F) -> F:
    """The function, its signature worked out once: Lightning asks for that of `training_step` at every step."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function
