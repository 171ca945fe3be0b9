"""The Lightning module of banks: `distill.training.fit` trains them as it trains one student.

One epoch is one day, the validation after it predicts the next. Several banks may share the days, banks of other shapes
and of other surfaces (`students.bank.days` deals those out): each is stepped on every batch that is its own, one after
the other, so that the activations of one are gone when the next begins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.stateful import Stateful

from distill.batch import Batch
from distill.errors import NonFiniteError, UserError
from distill.flops import count
from distill.lean import with_signature
from distill.module import DistillModule, Recorder
from distill.protocols import Output
from students.bank.bank import Bank


class BankModule(DistillModule):
    """Banks that are trained in one pass over the days.

    `examples` counts those of all members together, and FLOPs per example are the mean over them: rate, FLOPs and MFU
    of a day's report are so of the banks' whole work, the sum over their members. Its means are over all members.

    Args:
        banks: of one batch size and sampling of negatives, and with the same dense features and length of history where
            they have one. The stream carries the sparse features of all.
        recorders: one for each member of each bank. A frozen member's outputs are not recorded.
        domains: for each bank the domains whose batches are its own; None for all.

    Raises:
        UserError: banks that need batches of another form.

    Attributes:
        day_means: for each day trained on, for each bank: means of its members' losses, float64 [N] by name.
    """

    def __init__(
        self,
        banks: Sequence[Bank],
        recorders: Sequence[Sequence[Recorder]],
        domains: Sequence[Collection[int]] | None = None,
    ):
        _check_streams(banks)
        # FLOPs are counted again on days whose histories differ: the model is one that reads them, if any does.
        longest = max(banks, key=lambda bank: bank.history_length)
        super().__init__(longest.plain, {}, longest.settings[0], recorders[0][0])
        # A bank steps its own optimiser: it has to leave out members that are frozen.
        self.automatic_optimization = False
        self.banks = torch.nn.ModuleList(banks)
        self.recorders, self.domains = recorders, domains
        self.day_means: list[list[dict[str, Tensor]]] = []
        self._trained_on = [0] * len(banks)
        self._latest: dict[int, Batch] = {}

    @with_signature
    def training_step(self, batch: Batch, index: int) -> None:  # type: ignore[override]
        for place, bank in self._own(batch):
            bank.step(batch, index)
            self._trained_on[place] += len(batch) * len(bank.alive)
            self.examples += len(batch) * len(bank.alive)
            self._latest[place] = batch
        self.steps += 1
        self._refuse_nobody()

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        for place, bank in self._own(batch):
            logits = bank.predict(batch)
            for member in bank.alive:
                self.recorders[place][member].add(batch, Output(logits[member], {}))

    def configure_optimizers(self) -> Any:
        return []

    def take_means(self) -> dict[str, float]:
        """Means over the steps since the last call and over all members that took one."""
        self._trained_on = [0] * len(self.banks)
        self.day_means.append([bank.take_means() for bank in self._all()])
        return _over_members(self.day_means[-1])

    def means(self) -> dict[str, float]:
        """The same so far, which go on."""
        return _over_members([bank.means() for bank in self._all()])

    def count_flops(self, batch: Batch) -> list[float]:
        """Of a member of each bank: on this batch, on the latest of its own where this is not; without any, on this."""
        own = dict(self._own(batch))
        return [
            count(bank.plain, batch if place in own else self._latest.get(place, batch)).per_example
            for place, bank in enumerate(self._all())
        ]

    def flops_per_example(self, flops: Sequence[float]) -> float:
        """Mean over the examples of all members since the last `take_means`, by the banks' shares of them."""
        work = sum(of_bank * examples for of_bank, examples in zip(flops, self._trained_on, strict=True))
        return work / sum(self._trained_on)

    def trained(self) -> dict[str, torch.nn.Module]:
        """The banks by their places, each with its optimiser."""
        return {f"bank.{place}": bank for place, bank in enumerate(self._all())}

    def recorded(self) -> dict[str, Any]:
        """Of every member of every bank."""
        return {
            f"{place}.{member}": recorder.state_dict()
            for (place, member), recorder in self._recorders().items()
        }

    def resume_recording(self, recorded: Mapping[str, Any]) -> None:
        """Go on from what `recorded` gave."""
        for (place, member), recorder in self._recorders().items():
            recorder.load_state_dict(recorded[f"{place}.{member}"])

    def counted(self) -> dict[str, Any]:
        """As of any training; and what the days and the banks have come to so far."""
        return super().counted() | {"day_means": list(self.day_means), "trained_on": list(self._trained_on)}

    def resume_counting(self, counted: Mapping[str, Any]) -> None:
        """Go on from what `counted` gave."""
        super().resume_counting(counted)
        self.day_means, self._trained_on = list(counted["day_means"]), list(counted["trained_on"])

    def _recorders(self) -> dict[tuple[int, int], Stateful]:
        """By bank and member."""
        found: dict[tuple[int, int], Stateful] = {}
        for place, recorders in enumerate(self.recorders):
            for member, recorder in enumerate(recorders):
                assert isinstance(recorder, Stateful), (
                    "a training with checkpoints needs recorders that have a state"
                )
                found[place, member] = recorder
        return found

    def _refuse_nobody(self) -> None:
        if any(bank.alive for bank in self._all()):
            return
        told = [
            f"bank {place}, member {member}: {why}"
            for place, bank in enumerate(self._all())
            for member, why in sorted(bank.frozen.items())
        ]
        raise NonFiniteError(f"no student is left to train. {'; '.join(told)}. Lower the learning rates")

    def _all(self) -> list[Bank]:
        return [bank for bank in self.banks if isinstance(bank, Bank)]

    def _own(self, batch: Batch) -> list[tuple[int, Bank]]:
        """Places of the banks whose batch it is, all of whose rows are of one surface, and they themselves."""
        places = list(enumerate(self._all()))
        if self.domains is None:
            return places
        domain = int(batch.domain[0])
        return [(place, bank) for place, bank in places if domain in self.domains[place]]


def _over_members(means: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Means over all members that have one, of each bank's by name."""
    names = dict.fromkeys(name for of_bank in means for name in of_bank)
    together = {name: torch.cat([of_bank[name] for of_bank in means if name in of_bank]) for name in names}
    return {name: values.nanmean().item() for name, values in together.items()}


def _check_streams(banks: Sequence[Bank]) -> None:
    """One stream must do for all banks.

    Raises:
        UserError: banks that need batches of another form.
    """
    needs: dict[str, set[Any]] = {
        "batch_size": {bank.settings[0].batch_size for bank in banks},
        "dense": {bank.plain.dense_features for bank in banks},
        "history_length": {bank.history_length for bank in banks} - {0},
        "negative_sampling": {bank.plain.negative_sampling for bank in banks},
        # Whose label says which rows are dropped.
        "tasks of sampled rows": {bank.plain.tasks for bank in banks if bank.plain.negative_sampling < 1},
    }
    for name, values in needs.items():
        if len(values) > 1:
            raise UserError(
                f"banks: {name}: got {', '.join(map(str, sorted(values)))}, allowed: one for all that share a pass "
                "over the data. Train the others in a pass of their own"
            )
