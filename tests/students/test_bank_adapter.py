"""The Student Adapter of every member: it learns by itself, before the students, as it does of one student."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.student_adapter import StudentAdapter
from distill.dataset import DataSet
from students.bank import Bank
from students.bank.losses import StackedChannel
from tests.students.bank_training import (
    One,
    days_of,
    fit_alone,
    fit_bank,
    make,
    state_of,
    write_days,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_days(tmp_path_factory.mktemp("data") / "small")


def members(**settings: Any) -> list[One]:
    """With and without the channel, of weights and other settings of their own."""
    adapter = {"adapter": settings}
    return [
        One(0, adapter),
        One(0),
        One(1, {"adapter": settings | {"weight": 2.0}, "ah": {}}, {"clip_norm": 0.1}),
        One(2, {"adapter": settings | {"weight": 0.0}}, {"weight_decay": 0.1}),
    ]


def adapters_of(bank: Bank) -> list[Tensor]:
    """Parameters of all members' adapters, [N, ...], layer by layer."""
    channel = bank.channels["adapter"]
    assert isinstance(channel, StackedChannel) and isinstance(channel.form, StudentAdapter)
    return [tensor.detach() for tensor in channel.form.estimator.parameters()]


FORMS: list[tuple[bool, dict[str, Any]]] = [
    (True, {"learning_rate": 0.05, "layers": [5]}),
    (
        True,
        {"learning_rate": 0.05, "layers": [], "residual": False, "surface": True, "age": True, "hour": True},
    ),
    (False, {"learning_rate": 0.05, "beta": 0.5, "hidden": [3], "task_weights": {"order": 0.5}}),
]


@pytest.mark.parametrize(("double", "settings"), FORMS)
def test_adapters_and_students_are_those_trained_one_by_one(
    data: DataSet, double: bool, settings: dict[str, Any]
) -> None:
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9} if double else {"rtol": 1e-3, "atol": 5e-5}
    makes = [partial(make, "deepfm", data, one, double) for one in members(**settings)]
    bank, _ = fit_bank(makes, data, double)
    assert bank.frozen == {}
    for place, made in enumerate(makes):
        member = made()
        fit_alone(member, data, double)
        found = bank.export(place)
        for name, tensor in state_of(member).items():
            torch.testing.assert_close(found[name], tensor, **near)
        adapter = member.channels.get("adapter")
        if isinstance(adapter, StudentAdapter):
            for tensor, of_all in zip(adapter.estimator.parameters(), adapters_of(bank), strict=True):
                torch.testing.assert_close(of_all[place], tensor.detach(), **near)


def test_a_member_whose_adapter_is_not_finite_is_frozen_and_the_others_stay_bit_identical(
    data: DataSet,
) -> None:
    banks = [Bank([partial(make, "deepfm", data, one, False) for one in members()]) for _ in range(2)]
    spoiled, healthy = banks
    for index, batch in enumerate(list(days_of(data, 0, False)(1, True))[:4]):
        if index == 2:
            adapters_of(spoiled)[-1][2] = torch.nan
        for bank in banks:
            bank.step(batch, index)
    assert list(spoiled.frozen) == [2]
    assert spoiled.frozen[2].startswith("adapter: loss of the target is nan on day 1, batch 2")
    for found, expected in zip(spoiled.parameters(), healthy.parameters(), strict=True):
        assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])


def test_an_adapter_stays_as_it_is_where_no_label_has_matured(data: DataSet) -> None:
    bank = Bank([partial(make, "deepfm", data, one, False) for one in members()])
    first, second = list(days_of(data, 0, False)(1, True))[:2]
    bank.step(first)
    before = [tensor.clone() for tensor in adapters_of(bank)]
    second.matured.fill_(False)
    bank.step(second)
    assert all(torch.equal(*pair) for pair in zip(adapters_of(bank), before, strict=True))
