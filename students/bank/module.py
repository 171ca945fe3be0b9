"""The Lightning module of banks: `distill.training.fit` trains them as it trains one student.

One epoch is one day, the validation after it predicts the next. Several banks may share the days: each is stepped on
every batch, one after the other, so that the activations of one are gone when the next begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.batch import Batch
from distill.lean import with_signature
from distill.module import DistillModule, Recorder
from distill.protocols import Output
from students.bank.bank import Bank


class BankModule(DistillModule):
    """Banks that read the same batches.

    `examples` counts those of all members together, and FLOPs are counted of one member: rates and MFU of a day's
    report are so of the banks' whole work. Its means are over all members.

    Args:
        banks: of one surface and batch size; what they read may differ in columns, which the stream then all carries.
        recorders: one for each member of each bank. A frozen member's outputs are not recorded.

    Attributes:
        day_means: for each day trained on, for each bank: means of its members' losses, float64 [N] by name.
    """

    def __init__(self, banks: Sequence[Bank], recorders: Sequence[Sequence[Recorder]]):
        first = banks[0]
        super().__init__(first.plain, {}, first.settings[0], recorders[0][0])
        # A bank steps its own optimiser: it has to leave out members that are frozen.
        self.automatic_optimization = False
        self.banks = torch.nn.ModuleList(banks)
        self.recorders = recorders
        self.day_means: list[list[dict[str, Tensor]]] = []

    @with_signature
    def training_step(self, batch: Batch, index: int) -> None:  # type: ignore[override]
        for bank in self._all():
            bank.step(batch, index)
            self.examples += len(batch) * len(bank.alive)
        self.steps += 1

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        for bank, recorders in zip(self._all(), self.recorders, strict=True):
            logits = bank.predict(batch)
            for member in bank.alive:
                recorders[member].add(batch, Output(logits[member], {}))

    def configure_optimizers(self) -> Any:
        return []

    def take_means(self) -> dict[str, float]:
        """Means over the steps since the last call and over all members that took one."""
        self.day_means.append([bank.take_means() for bank in self._all()])
        names = dict.fromkeys(name for means in self.day_means[-1] for name in means)
        together = {
            name: torch.cat([means[name] for means in self.day_means[-1] if name in means]) for name in names
        }
        return {name: values.nanmean().item() for name, values in together.items()}

    def _all(self) -> list[Bank]:
        return [bank for bank in self.banks if isinstance(bank, Bank)]
