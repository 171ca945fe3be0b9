"""A bank computes every row by itself; an architecture that does not is refused before the first step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.batch import Batch, Events
from distill.dataset import DataSet
from distill.errors import UserError
from distill.protocols import Output
from kernels.embedding import Embedded
from students.bank import Bank, Member
from students.deepfm import DeepFM
from students.din import DIN
from tests.students.bank_training import One, days_of, make, write_days

# The rows of the two members are the same: an average over both is what it is over one.
TWINS = [One(0), One(0, {}, {"learning_rate": 0.02})]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_days(tmp_path_factory.mktemp("data") / "small")


class OfLogits(DeepFM):
    """Its logits are standardised over the batch: a layer without parameters and state."""

    def forward(self, batch: Batch) -> Output:
        output = super().forward(batch)
        return Output(functional.batch_norm(output.logits, None, None, training=True), output.taps)


class OfTaps(DeepFM):
    """Only a tap, which a channel may read, knows the other rows."""

    def forward(self, batch: Batch) -> Output:
        output = super().forward(batch)
        taps = output.taps | {"embedding": output.taps["embedding"] - output.taps["embedding"].mean(0)}
        return Output(output.logits, taps)


class OfDense(DeepFM):
    """Reads how far a dense feature lies from the batch's mean."""

    def forward(self, batch: Batch) -> Output:
        output = super().forward(batch)
        return Output(output.logits + (batch.dense[:, :1] - batch.dense[:, 0].mean()), output.taps)


class OfLargest(DeepFM):
    """A hundredth of the largest logit of the batch."""

    def forward(self, batch: Batch) -> Output:
        output = super().forward(batch)
        return Output(output.logits + 0.01 * output.logits.max(), output.taps)


class WithOwnLoss(DeepFM):
    """Adds to the loss of its labels."""

    def forward(self, batch: Batch) -> Output:
        output = super().forward(batch)
        return Output(output.logits, output.taps, output.logits.square().sum(1))


class OfEvents(DIN):
    """Its history pools all the batch's events."""

    def own_events(self, batch: Batch, embedded: Embedded) -> tuple[Events, Tensor]:
        history, rows = super().own_events(batch, embedded)
        return history, rows - rows.mean(0)


def made(data: DataSet, kind: str, architecture: type, one: One) -> Member:
    member = make(kind, data, one, False, history_length=4)
    member.model.__class__ = architecture
    return member


def bank_of(data: DataSet, architecture: type, members: list[One], kind: str = "deepfm") -> Bank:
    makes: list[Callable[[], Member]] = [partial(made, data, kind, architecture, one) for one in members]
    return Bank(makes)


def first_batch(data: DataSet) -> Batch:
    return next(iter(days_of(data, 4, False)(2, True)))


@pytest.mark.parametrize("architecture", [OfLogits, OfTaps, OfDense, OfLargest])
@pytest.mark.parametrize("members", [TWINS, [One(0), One(1)], [One(0)]], ids=["twins", "two", "one"])
def test_rows_that_know_each_other_are_refused(data: DataSet, architecture: type, members: list[One]) -> None:
    with pytest.raises(UserError, match=f"bank: {architecture.__name__} says something else"):
        bank_of(data, architecture, members).step(first_batch(data))


def test_events_that_know_those_of_other_rows_are_refused(data: DataSet) -> None:
    with pytest.raises(UserError, match="bank: OfEvents says something else of a row when the others"):
        bank_of(data, OfEvents, TWINS, "din").step(first_batch(data))


def test_a_loss_of_its_own_is_refused(data: DataSet) -> None:
    with pytest.raises(UserError, match="bank: WithOwnLoss adds a loss of its own"):
        bank_of(data, WithOwnLoss, TWINS).step(first_batch(data))


def test_a_batch_norm_without_state_is_refused(data: DataSet) -> None:
    def normed(one: One) -> Member:
        member = make("deepfm", data, one, False, history_length=4)
        assert isinstance(member.model, DeepFM)
        member.model.deep.append(nn.BatchNorm1d(5, affine=False, track_running_stats=False))
        return member

    with pytest.raises(UserError, match="bank: DeepFM says something else of a row when the others"):
        Bank([partial(normed, one) for one in TWINS]).step(first_batch(data))


def test_a_member_that_starts_broken_hides_nothing(data: DataSet) -> None:
    bank = bank_of(data, OfLogits, [One(0), One(1), One(2)])
    with torch.no_grad():
        bank.trunk.heads.bias[0] = torch.nan
    with pytest.raises(UserError, match="OfLogits says something else"):
        bank.step(first_batch(data))


def test_a_broken_members_outputs_are_not_compared(data: DataSet) -> None:
    bank = bank_of(data, DeepFM, [One(0), One(1)])
    with torch.no_grad():
        bank.trunk.heads.bias[0] = torch.nan
    bank.step(first_batch(data))
    assert list(bank.frozen) == [0]


class LastEvent(DeepFM):
    """Its history is the last event alone."""

    def own_events(self, batch: Batch, embedded: Embedded) -> tuple[Events, Tensor]:
        history, rows = super().own_events(batch, embedded)
        return history.last(1, rows)


class ReadsEvents(DeepFM):
    """Reads events where a channel's fields would be made of them."""

    def given_fields(self, batch: Batch, embedded: Embedded) -> list[Tensor]:
        assert embedded.events is not None
        return []


@pytest.mark.parametrize("architecture", [LastEvent, ReadsEvents])
def test_a_student_that_reads_the_events_itself_gets_them(data: DataSet, architecture: type) -> None:
    bank, batch = bank_of(data, architecture, [One(0), One(1)]), first_batch(data)
    bank.step(batch)
    for member in (0, 1):
        plain = made(data, "deepfm", architecture, One(member)).model
        plain.load_state_dict(bank.export(member))
        torch.testing.assert_close(bank.predict(batch)[member], plain(batch).logits)


def test_a_shorter_history_of_its_own_than_the_batchs_is_read(data: DataSet) -> None:
    def shorter() -> Member:
        member = make("deepfm", data, One(0), False, history_length=4)
        assert isinstance(member.model, DeepFM)
        member.model.own_history = 2
        return member

    bank, batch = Bank([shorter, shorter]), first_batch(data)
    bank.step(batch)
    plain = shorter().model
    plain.load_state_dict(bank.export(1))
    torch.testing.assert_close(bank.predict(batch)[1], plain(batch).logits)


def test_a_look_up_that_is_not_the_tables_own_is_refused(data: DataSet) -> None:
    def doubled() -> Member:
        member = make("deepfm", data, One(0), False, history_length=4)
        member.model.tables.register_forward_hook(
            lambda tables, ids, found: Embedded(2 * found.features, found.events)
        )
        return member

    with pytest.raises(UserError, match="DeepFM says something else in a bank than by itself"):
        Bank([doubled, doubled]).step(first_batch(data))
