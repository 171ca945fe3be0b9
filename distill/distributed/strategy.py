"""Lightning's strategy for several processes: dense gradients are averaged while the backward pass goes on.

The tables average theirs by themselves, and so do parameters that are split (`distill.distributed.dense`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
from torch import nn
from torch.optim import Optimizer

from distill.distributed.dense import is_split
from distill.distributed.gradients import GradientMeans
from distill.lean import LeanStrategy
from kernels.embedding import EmbeddingTables


class AveragingStrategy(LeanStrategy):
    """`LeanStrategy` in each of several processes. To Lightning each trains alone: streams hand out the shares."""

    _means: GradientMeans | None = None

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: L.LightningModule | nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        def averaged() -> Any:
            loss = closure()
            assert self._means is not None
            self._means.end()
            return loss

        done = super().optimizer_step(optimizer, averaged, model, **kwargs)
        for tables in self._tables:
            tables.average_copies()
        return done

    def setup(self, trainer: L.Trainer) -> None:
        super().setup(trainer)
        assert self.lightning_module is not None
        self._tables = [part for part in self.lightning_module.modules() if isinstance(part, EmbeddingTables)]

    def setup_optimizers(self, trainer: L.Trainer) -> None:
        super().setup_optimizers(trainer)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self._means = GradientMeans(parameter for group in groups for parameter in group["params"])

    def teardown(self) -> None:
        assert self.lightning_module is not None
        if self._means is not None:
            self._means.close()
        # Lightning would move everything to the CPU, which FSDP2 refuses where a pass was broken off by an error.
        if not is_split(self.lightning_module):
            super().teardown()
