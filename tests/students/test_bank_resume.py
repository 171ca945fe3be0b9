"""A training of a bank that was stopped goes on from its newest checkpoint, and ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.checkpoints import Checkpoints, CheckpointStore
from distill.config import CheckpointConfig
from distill.dataset import DataSet
from distill.errors import UserError
from distill.stream import DayStream
from distill.training import DayData, DayReport, fit
from students.bank import Bank, BankModule
from tests.distill.prepared_data import DENSE
from tests.distill.tiny_training import Memory
from tests.students.bank_training import (
    BATCH,
    FEATURES,
    PLAN,
    Days,
    One,
    callback,
    make,
    write_days,
)

DIVERGES = 3
MEMBERS = [
    One(0),
    One(1, {"ah": {"weight": 0.5}, "adapter": {"learning_rate": 0.05}}, {"clip_norm": 0.05}),
    One(2, {"single": {}}, {"weight_decay": 0.1, "table_learning_rate": 0.3}),
    One(3, {}, {"learning_rate": 1e30}),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Three days of 60 rows: eight batches each."""
    return write_days(tmp_path_factory.mktemp("data") / "small")


class Kept(Memory):
    """A memory that has a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"days": dict(self.days)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.days = dict(state_dict["days"])


class Killed(BaseException):
    """Nobody catches it: nothing is put in order."""


class Watched(Days):
    """Days that can go on in their middle; `at` is called before each batch."""

    def __init__(self, stream: DayStream, at: Callable[[], None]):
        super().__init__(stream, False)
        self.at = at

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stream.load_state_dict(state_dict)

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self.at()
            yield batch


@dataclass
class Left:
    """What a bank leaves: members, predictions, reports, means of the days."""

    bank: Bank
    predicted: list[dict[int, Tensor]]
    reports: list[DayReport]
    day_means: list[list[dict[str, Tensor]]]


def train(
    data: DataSet, folder: Path | None, kill_before: int | None = None, members: list[One] = MEMBERS
) -> Left:
    """Train a bank whose members look at their histories, with a checkpoint after every third step."""
    read = 0

    def at() -> None:
        nonlocal read
        if read == kill_before:
            raise Killed
        read += 1

    def days(day: int, training: bool) -> Watched:
        return Watched(DayStream(data, day, BATCH, FEATURES, DENSE, history_length=4), at)

    bank = Bank([partial(make, "din", data, one, False, history_length=4) for one in members])
    memories = [Kept() for _ in members]
    module = BankModule([bank], [memories])
    checkpoints = None
    if folder is not None:
        config = CheckpointConfig(every_minutes=0, every_batches=3)
        checkpoints = Checkpoints(CheckpointStore(folder, {}, keep=1), config)
    reports = fit(module, DayData(days, PLAN), callback(), checkpoints)
    return Left(bank, [memory.days for memory in memories], reports, module.day_means)


@pytest.fixture(scope="module")
def undisturbed(data: DataSet) -> Left:
    return train(data, None)


# In the first day, while the second is predicted, after the last step of all.
@pytest.mark.parametrize("batch", [7, 11, 30])
def test_resumed_bank_is_bit_identical(data: DataSet, tmp_path: Path, undisturbed: Left, batch: int) -> None:
    with pytest.raises(Killed):
        train(data, tmp_path, batch)
    assert list(tmp_path.glob("step-*"))
    resumed = train(data, tmp_path)
    assert resumed.bank.frozen == undisturbed.bank.frozen and set(resumed.bank.frozen) == {DIVERGES}
    for member in undisturbed.bank.alive:
        found, expected = resumed.bank.export(member), undisturbed.bank.export(member)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name
        for day, logits in undisturbed.predicted[member].items():
            assert torch.equal(resumed.predicted[member][day], logits)
    for one, other in zip(resumed.bank.adam.state(), undisturbed.bank.adam.state(), strict=True):
        assert torch.equal(one[:DIVERGES], other[:DIVERGES]) if one.dim() else torch.equal(one, other)
    reports = [
        [(r.day, r.examples_seen, r.flops_per_example) for r in of.reports] for of in (resumed, undisturbed)
    ]
    assert reports[0] == reports[1]
    for got, wanted in zip(resumed.day_means, undisturbed.day_means, strict=True):
        for name, values in wanted[0].items():
            torch.testing.assert_close(got[0][name], values, rtol=0, atol=0, equal_nan=True)


def test_checkpoint_of_another_bank_is_refused(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(data, tmp_path, 7)
    with pytest.raises(UserError, match="does not fit the model"):
        train(data, tmp_path, members=MEMBERS[:2])
