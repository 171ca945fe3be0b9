"""A member that is no longer finite is frozen and reported; the others do not notice."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.dataset import DataSet
from distill.errors import NonFiniteError
from students.bank import Bank, BankModule, Member
from tests.distill.tiny_training import Memory
from tests.students.bank_training import One, days_of, make, write_days

MEMBERS = [One(0), One(1, {"ah": {"weight": 0.5}}), One(2, {}, {"clip_norm": 0.1}), One(3)]
Spoil = Callable[[Bank], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_days(tmp_path_factory.mktemp("data") / "small")


def bank_of(data: DataSet, members: list[One] = MEMBERS) -> Bank:
    makes: list[Callable[[], Member]] = [
        partial(make, "deepfm", data, one, False, history_length=4) for one in members
    ]
    return Bank(makes)


def batches(data: DataSet) -> list[Batch]:
    return list(days_of(data, 4, False)(1, True))


def everything(bank: Bank) -> dict[str, Tensor]:
    """All that the bank holds, optimiser included, by member in the first dimension."""
    state = {name: parameter.detach().clone() for name, parameter in bank.named_parameters()}
    for place, stack in enumerate(stack for part in bank.adam.parts for stack in part):
        state |= {f"moments.{place}.{order}": moment.clone() for order, moment in enumerate(stack.moments)}
    tables = [bank.tables.export(member) for member in range(bank.size)]
    return state | {name: torch.stack([of_member[name] for of_member in tables]) for name in tables[0]}


def run(data: DataSet, spoil: Spoil) -> tuple[Bank, dict[str, Tensor], dict[str, Tensor]]:
    """Five steps, one member spoiled before the fourth; what the bank held before that and at the end."""
    bank = bank_of(data)
    for index, batch in enumerate(batches(data)[:5]):
        if index == 3:
            before = everything(bank)
            spoil(bank)
        bank.step(batch, index)
    return bank, before, everything(bank)


def loss_is_nan(bank: Bank) -> None:
    with torch.no_grad():
        bank.trunk.heads.bias[1, 0] = torch.nan


def loss_is_infinite(bank: Bank) -> None:
    with torch.no_grad():
        bank.trunk.heads.bias[1, 0] = torch.inf


def embeddings_gradient_is_nan(bank: Bank) -> None:
    def spoil(gradient: Tensor) -> Tensor:
        spoiled = gradient.clone()
        spoiled[1, 2, 0, 1] = torch.nan
        return spoiled

    look_up = bank.tables.pooled

    def once(*arguments: Any) -> Tensor:
        rows = look_up(*arguments)
        rows.register_hook(spoil)
        del bank.tables.pooled
        return rows

    bank.tables.pooled = once  # type: ignore[method-assign, assignment]


SPOILS = [
    (loss_is_nan, r"loss is nan on day 1, batch 3 \(examples 100024 and following\)"),
    (loss_is_infinite, r"loss is (nan|inf) on day 1, batch 3"),
    (embeddings_gradient_is_nan, r"embedding gradient is NaN or infinite on day 1, batch 3"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILS)
def test_the_others_stay_bit_identical_and_the_member_as_it_was(
    data: DataSet, spoil: Spoil, message: str
) -> None:
    bank, before, after = run(data, spoil)
    _, _, healthy = run(data, lambda bank: None)
    assert list(bank.frozen) == [1] and bank.alive == [0, 2, 3]
    with pytest.raises(NonFiniteError, match=message):
        raise NonFiniteError(bank.frozen[1])
    for name, tensor in after.items():
        assert torch.equal(tensor[[0, 2, 3]], healthy[name][[0, 2, 3]]), name
        if name != "trunk.heads.bias":  # there it was spoiled by hand
            assert torch.equal(tensor[1], before[name][1]), name


@pytest.mark.parametrize("spoil", [spoil for spoil, _ in SPOILS])
def test_the_others_are_bit_identical_to_a_bank_without_the_member(data: DataSet, spoil: Spoil) -> None:
    bank, _, _ = run(data, spoil)
    without = bank_of(data, [one for place, one in enumerate(MEMBERS) if place != 1])
    for index, batch in enumerate(batches(data)[:5]):
        without.step(batch, index)
    assert list(bank.frozen) == [1] and not without.frozen
    for place, member in enumerate((0, 2, 3)):
        found, expected = bank.export(member), without.export(place)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        for stack, other in zip(bank.adam.parts[0], without.adam.parts[0], strict=True):
            for moments, others in zip(stack.moments, other.moments, strict=True):
                assert torch.equal(moments[member], others[place])


@pytest.mark.parametrize("member", [2, 3], ids=["clipped", "not clipped"])
def test_a_member_with_an_infinite_norm_keeps_its_dense_parameters(data: DataSet, member: int) -> None:
    def spoil(bank: Bank) -> None:
        def infinite(gradient: Tensor) -> Tensor:
            spoiled = gradient.clone()
            spoiled[member, 0] = torch.inf
            return spoiled

        bank.trunk.heads.bias.register_hook(infinite)

    bank, before, after = run(data, spoil)
    _, _, healthy = run(data, lambda bank: None)
    assert list(bank.frozen) == [member]
    assert "norm of the dense gradient is inf on day 1, batch 3" in bank.frozen[member]
    others = [place for place in range(len(MEMBERS)) if place != member]
    for name, tensor in before.items():
        if not name.endswith((".weight", ".momentum")) or name.startswith(("trunk", "channels")):
            assert torch.equal(after[name][member], tensor[member]), name
        assert torch.equal(after[name][others], healthy[name][others]), name


@pytest.mark.parametrize("channel", ["single", "ah"])
@pytest.mark.parametrize("signal", [torch.inf, 1e30])
def test_a_channels_non_finite_loss_is_no_matter_of_members_without_it(
    data: DataSet, channel: str, signal: float
) -> None:
    bank, healthy = (bank_of(data, [One(0), One(1, {channel: {"loss": "mse_logit"}})]) for _ in range(2))
    for index, batch in enumerate(batches(data)[:3]):
        healthy.step(batch, index)
        assert batch.teacher is not None
        spoiled = replace(batch.teacher, logits=torch.full_like(batch.teacher.logits, signal))
        bank.step(replace(batch, teacher=spoiled), index)
    assert list(bank.frozen) == [1] and re.match(r"loss is (nan|inf) on day 1, batch 0", bank.frozen[1])
    found, expected = bank.export(0), healthy.export(0)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_means_of_a_frozen_member_end_with_it(data: DataSet) -> None:
    bank, _, _ = run(data, loss_is_nan)
    whole, shorter = bank_of(data), bank_of(data)
    for index, batch in enumerate(batches(data)[:5]):
        whole.step(batch, index)
        if index < 3:
            shorter.step(batch, index)
    found, of_all, of_three = (each.take_means() for each in (bank, whole, shorter))
    assert set(found) == {"loss_labels", "ah/loss", "ah/clipped"}
    for name, values in found.items():
        assert torch.equal(values[[0, 2, 3]].nan_to_num(-1), of_all[name][[0, 2, 3]].nan_to_num(-1))
        assert torch.equal(values[1], of_three[name][1]) and values[1].isfinite()
    assert bank.take_means() == {}


def fall(bank: Bank, member: int) -> None:
    with torch.no_grad():
        bank.trunk.heads.bias[member, 0] = torch.nan


def test_a_bank_without_a_living_member_does_nothing(data: DataSet) -> None:
    bank, batch = bank_of(data, MEMBERS[:2]), batches(data)[0]
    for member in (0, 1):
        fall(bank, member)
    bank.step(batch)
    before = everything(bank)
    bank.step(batch)
    assert bank.alive == []
    assert all(
        torch.equal(tensor.nan_to_num(), before[name].nan_to_num())
        for name, tensor in everything(bank).items()
    )


def test_training_stops_when_no_bank_has_a_member_left(data: DataSet) -> None:
    banks, batch = [bank_of(data, MEMBERS[:1]), bank_of(data, MEMBERS[:1])], batches(data)[0]
    module = BankModule(banks, [[Memory()], [Memory()]])
    fall(banks[0], 0)
    module.training_step(batch, 0)
    assert banks[1].alive == [0]
    fall(banks[1], 0)
    with pytest.raises(
        NonFiniteError,
        match=r"bank 0, member 0: loss is nan .*batch 0.*bank 1, member 0: loss is nan .*batch 1",
    ):
        module.training_step(batch, 1)


def test_a_frozen_member_is_not_recorded(data: DataSet) -> None:
    bank, batch, memories = bank_of(data), batches(data)[0], [Memory() for _ in MEMBERS]
    module = BankModule([bank], [memories])
    fall(bank, 1)
    module.training_step(batch, 0)
    module.validation_step(batch, 0)
    assert [len(memory.days) for memory in memories] == [1, 0, 1, 1]
