"""Banks of several surfaces and shapes in one pass over the days."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torchrec import KeyedJaggedTensor

from distill.batch import Batch, Events
from distill.dataset import DataSet
from distill.errors import UserError
from distill.sampling import NegativeSampling
from distill.stream import DayStream
from distill.training import DayData, DayReport, fit
from students.bank import Bank, BankModule, DealtDay, Member, days
from tests.distill.prepared_data import DENSE
from tests.distill.tiny_training import Memory
from tests.students.bank_training import (
    BATCH,
    FEATURES,
    PLAN,
    Days,
    One,
    callback,
    fit_alone,
    make,
    state_of,
    write_days,
)

FEED, REELS = ("feed",), ("reels",)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_days(tmp_path_factory.mktemp("data") / "small")


def tensors(value: Any) -> list[Tensor]:
    """All that a batch holds."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, KeyedJaggedTensor):
        return [value.values(), value.lengths()]
    if isinstance(value, Batch | Events):
        return [tensor for part in fields(value) for tensor in tensors(getattr(value, part.name))]
    return []


@pytest.mark.parametrize("rows", [7, 8192])
def test_each_surface_gets_the_batches_of_its_own_stream(
    data: DataSet, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(days, "ROWS", rows)
    dealt = DealtDay(data, 2, BATCH, FEATURES, DENSE, [REELS, FEED], history_length=4)
    batches = list(dealt)
    assert len(dealt) == len(batches)
    for place, surface in enumerate((FEED, REELS)):
        own = DayStream(data, 2, BATCH, FEATURES, DENSE, history_length=4, domains=surface)
        mine = [batch for batch in batches if int(batch.domain[0]) == place]
        assert len(mine) == len(own)
        for found, expected in zip(mine, own, strict=True):
            both = list(zip(tensors(found), tensors(expected), strict=True))
            assert len(both) > 12 and all(torch.equal(*pair) for pair in both)


def test_a_surface_that_is_not_asked_for_is_not_dealt_out(data: DataSet) -> None:
    only = list(DealtDay(data, 1, BATCH, FEATURES, DENSE, [FEED]))
    assert {int(code) for batch in only for code in batch.domain} == {0}


def test_no_domain_is_dealt_out_twice(data: DataSet) -> None:
    with pytest.raises(ValueError, match="surfaces: got feed, reels, feed, allowed: each domain once"):
        DealtDay(data, 1, BATCH, FEATURES, DENSE, [FEED, ("reels", "feed")])


def test_banks_of_other_shapes_and_surfaces_equal_students_trained_one_by_one(data: DataSet) -> None:
    shapes: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
        ("deepfm", {"history_length": 4}, FEED),
        ("dlrm", {}, FEED),
        ("dcn_v2", {"history_length": 4}, REELS),
    ]
    members = [One(0), One(1, {"ah": {"weight": 0.5}}, {"learning_rate": 0.02})]
    makes: list[list[Callable[[], Member]]] = [
        [partial(make, kind, data, one, True, **options) for one in members] for kind, options, _ in shapes
    ]
    memories = [[Memory() for _ in members] for _ in shapes]
    banks = [Bank(of_bank) for of_bank in makes]
    module = BankModule(banks, memories, [[data.schema.domain_index(*surface)] for *_, surface in shapes])

    def dealt(day: int, training: bool) -> IterableDataset:
        stream = DealtDay(data, day, BATCH, FEATURES, DENSE, [FEED, REELS], history_length=4)
        return Days(stream, True)

    fit(module, DayData(dealt, PLAN), callback())
    for place, (*_, surface) in enumerate(shapes):
        for number, made in enumerate(makes[place]):
            member = made()
            alone = fit_alone(member, data, True, domains=surface)
            found = banks[place].export(number)
            for name, tensor in state_of(member).items():
                assert torch.allclose(found[name], tensor, rtol=1e-9, atol=1e-9), name
            for day, logits in alone.days.items():
                torch.testing.assert_close(memories[place][number].days[day], logits, rtol=1e-9, atol=1e-9)


def fit_dealt(data: DataSet, **options: Any) -> tuple[BankModule, list[DayReport]]:
    """One student on each surface, on days that are dealt out; the options hold for days trained on."""
    banks = [Bank([partial(make, "deepfm", data, One(seed), False)]) for seed in (0, 1)]
    module = BankModule(banks, [[Memory()], [Memory()]], [[0], [1]])

    def dealt(day: int, training: bool) -> IterableDataset:
        return DealtDay(data, day, BATCH, FEATURES, DENSE, [FEED, REELS], **options if training else {})

    return module, fit(module, DayData(dealt, PLAN), callback())


def test_sampled_negatives_are_counted_and_trained_on(data: DataSet) -> None:
    negatives = NegativeSampling("click", 0.2)
    module, reports = fit_dealt(data, negatives=negatives)
    streams = [
        DayStream(data, day, BATCH, FEATURES, DENSE, domains=surface, negatives=negatives)
        for day in (1, 2)
        for surface in (FEED, REELS)
    ]
    kept = [len(batch) for stream in streams for batch in stream]
    assert [report.day for report in reports] == [1, 2]
    assert module.steps == len(kept) < sum(-(-30 // BATCH) for _ in streams)
    assert reports[-1].examples_seen == sum(kept)


def test_shards_are_refused(data: DataSet) -> None:
    with pytest.raises(ValueError, match="num_shards: got 2, allowed: 1"):
        fit_dealt(data, shard=1, num_shards=2)


@pytest.mark.parametrize(
    ("one", "options", "message"),
    [
        (One(0, {}, {"batch_size": 4}), {"history_length": 4}, "banks: batch_size: got 4, 8"),
        (One(0), {"history_length": 3}, "banks: history_length: got 3, 4"),
    ],
)
def test_banks_that_need_other_batches_are_refused(
    data: DataSet, one: One, options: dict[str, Any], message: str
) -> None:
    first = Bank([partial(make, "deepfm", data, One(0), False, history_length=4)])
    second = Bank([partial(make, "deepfm", data, one, False, **options)])
    with pytest.raises(UserError, match=message):
        BankModule([first, second], [[Memory()], [Memory()]])


def one_task(share: float, task: str, data: DataSet) -> Member:
    member = make("deepfm", data, One(0), False)
    member.model.tasks, member.model.negative_sampling = (task,), share
    return member


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((1.0, "click"), (0.5, "click"), "banks: negative_sampling: got 0.5, 1.0, allowed: one"),
        ((0.5, "click"), (0.5, "order"), r"banks: tasks of sampled rows: got \('click',\), \('order',\)"),
    ],
)
def test_banks_that_train_on_other_rows_are_refused(
    data: DataSet, first: tuple[float, str], second: tuple[float, str], message: str
) -> None:
    banks = [Bank([partial(one_task, *of, data)]) for of in (first, second)]
    with pytest.raises(UserError, match=message):
        BankModule(banks, [[Memory()], [Memory()]])


def test_banks_of_other_tasks_share_rows_that_are_not_sampled(data: DataSet) -> None:
    banks = [Bank([partial(one_task, 1.0, task, data)]) for task in ("click", "order")]
    assert BankModule(banks, [[Memory()], [Memory()]]).banks[1] is banks[1]


def test_flops_are_the_sum_over_members(data: DataSet) -> None:
    """Counted by hand: 2 FLOPs a multiply-add forward, 4 backward, 2 where the input is data."""
    tasks, inputs = 2, len(FEATURES) * 4 + len(DENSE)
    first_order = 4 * len(DENSE) * tasks
    small = 6 * (inputs * 6 + 6 * 5 + (5 + tasks + 1) * tasks) + first_order
    large = 6 * (inputs * 8 + (8 + tasks + 1) * tasks) + first_order
    shapes = [([6, 5], FEED, 3), ([8], FEED, 2), ([8], REELS, 1)]
    banks = [
        Bank([partial(make, "deepfm", data, One(seed), False, mlp=mlp) for seed in range(members)])
        for mlp, _, members in shapes
    ]
    recorders = [[Memory() for _ in range(bank.size)] for bank in banks]
    module = BankModule(banks, recorders, [[data.schema.domain_index(*of)] for _, of, _ in shapes])
    with torch.no_grad():
        banks[0].trunk.heads.bias[1] = (
            torch.nan
        )  # this one is frozen in its first step, and trains on nothing

    def dealt(day: int, training: bool) -> IterableDataset:
        return DealtDay(data, day, BATCH, FEATURES, DENSE, [FEED, REELS])

    reports = fit(module, DayData(dealt, PLAN), callback())
    rows = 30  # of each surface and day
    assert list(banks[0].frozen) == [1]
    assert [report.flops for report in reports] == pytest.approx([rows * (2 * small + 3 * large)] * 2)
    assert reports[-1].examples_seen == 2 * rows * 5
