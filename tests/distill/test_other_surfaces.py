"""Rows of other surfaces: which a stream holds, where it resumes, and whom they reach."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from distill.batch import Batch
from distill.config import OptimizerConfig
from distill.dataset import DataSet
from distill.delay import Unlabelled
from distill.errors import DataError, UserError
from distill.module import DistillModule
from distill.other_surfaces import OthersFirst, other_surfaces
from distill.sources import writer
from tests.distill.prepared_data import all_rows, day_table, stream, write_one_day
from tests.distill.tiny_training import Memory, Own, Tiny


class Asks(Own):
    """Learns from other surfaces' rows too."""

    def __init__(self, share: float = 1.0):
        super().__init__()
        self.other_surfaces = share


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """One day of 1,000 rows in row groups of 300, feed and reels in turns; all clicked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "ROW_GROUP", 300)
        table = day_table(1, 1000, label_click=pa.array([1] * 1000, pa.int8()))
        return write_one_day(tmp_path_factory.mktemp("data") / "others", table)


def both(data: DataSet, share: float = 1.0) -> OthersFirst:
    """A day of a student of reels: 500 rows of its own."""
    rule = Unlabelled(data.schema)
    others = stream(data, batch_size=64, domains=["feed"], labels=rule, share=share, own=False)
    return OthersFirst(others, stream(data, batch_size=64, domains=["reels"]))


def of_domain(data: DataSet, name: str) -> set[int]:
    rows = data.outcomes(1)
    return set(rows.example_id[rows.domain == data.schema.domain_index(name)].tolist())


def test_others_come_first_and_then_every_row_of_its_own(data: DataSet) -> None:
    batches = list(both(data))
    assert [batch.own for batch in batches] == [False] * 8 + [True] * 8 and len(both(data)) == 16
    ids = [set(all_rows(part, "example_id").tolist()) for part in (batches[:8], batches[8:])]
    assert ids == [of_domain(data, "feed"), of_domain(data, "reels")]


def test_others_carry_no_label(data: DataSet) -> None:
    for batch in both(data):
        known = [batch.labels.any(), batch.label_mask.any(), batch.matured.any()]
        assert [bool(value) for value in known] == [batch.own] * 3


def test_a_share_is_drawn_from_them_alone(data: DataSet) -> None:
    few, more = (list(both(data, share)) for share in (0.2, 0.6))
    ids = [
        {int(i) for batch in batches if not batch.own for i in batch.example_id} for batches in (few, more)
    ]
    assert ids[0] < ids[1] < of_domain(data, "feed")
    assert [len(part) / 500 for part in ids] == pytest.approx([0.2, 0.6], abs=0.07)
    for batches in (few, more):
        assert set(all_rows([b for b in batches if b.own], "example_id").tolist()) == of_domain(data, "reels")


@pytest.mark.parametrize("done", [0, 3, 7, 8, 9, 15])
def test_goes_on_where_it_stopped(data: DataSet, done: int) -> None:
    whole = [batch.example_id.tolist() for batch in both(data, 0.9)]
    first, second = both(data, 0.9), both(data, 0.9)
    batches = iter(first)
    begun = [next(batches).example_id.tolist() for _ in range(done)]
    second.load_state_dict(first.state_dict())
    assert begun + [batch.example_id.tolist() for batch in second] == whole
    assert [
        batch.example_id.tolist() for batch in second
    ] == whole  # the next time it begins at the beginning


def test_a_place_among_other_rows_is_refused(data: DataSet) -> None:
    first = both(data, 0.9)
    next(iter(first))
    with pytest.raises(DataError, match="position in a day: rows"):
        both(data, 0.5).load_state_dict(first.state_dict())


def step(data: DataSet, batch: Batch, **channels: Own) -> tuple[Tiny, DistillModule]:
    """A module whose loss on the batch has been sent back."""
    model = Tiny(data.schema)
    for channel in channels.values():
        channel.attach(model)
    module = DistillModule(model, channels, OptimizerConfig(), Memory())
    module.training_step(batch, 0).backward()
    return model, module


def test_only_channels_that_ask_learn_from_them(data: DataSet) -> None:
    batch = next(iter(both(data)))
    asks, quiet = Asks(), Own()
    model, module = step(data, batch, asks=asks, quiet=quiet)
    assert (asks.calls, quiet.calls) == (["loss"], [])  # a channel's own step is for the student's own rows
    assert model.head.weight.grad is None, "no gradient at all: Adam would follow its momentum even at 0"
    hidden = model.hidden[0].weight.grad
    assert hidden is not None and bool(torch.as_tensor(hidden).any())
    assert set(module.means()) == {"asks/loss"}


def test_who_asks_for_their_labels_takes_its_own_step_with_them(data: DataSet) -> None:
    asks = Asks()
    asks.other_labels = True
    step(data, next(iter(both(data))), asks=asks)
    assert asks.calls == ["step", "loss"]


def test_own_rows_reach_all(data: DataSet) -> None:
    *_, batch = both(data)
    asks, quiet = Asks(), Own()
    model, module = step(data, batch, asks=asks, quiet=quiet)
    assert asks.calls == quiet.calls == ["step", "loss"]
    assert model.head.weight.grad is not None
    assert set(module.means()) == {"loss_labels", "asks/loss", "quiet/loss"}


def test_means_are_over_the_steps_that_counted(data: DataSet) -> None:
    foreign, own = next(iter(both(data))), list(both(data))[-1]
    model = Tiny(data.schema)
    channel = Asks()
    channel.attach(model)
    module = DistillModule(model, {"asks": channel}, OptimizerConfig(), Memory())
    with torch.no_grad():
        module.training_step(own, 0)
        alone = module.means()["loss_labels"]
        for index in range(3):
            module.training_step(foreign, index)
    assert module.means()["loss_labels"] == pytest.approx(alone)


def test_a_set_has_one_share() -> None:
    assert other_surfaces([Own(), Asks(0.5), Asks(0.5)]) == 0.5
    assert other_surfaces([Own()]) == 0
    with pytest.raises(UserError, match=r"other_surfaces: got 0\.2, 0\.5 in the channels of one student"):
        other_surfaces([Asks(0.5), Asks(0.2)])


def test_a_share_of_nothing_is_no_batch(data: DataSet) -> None:
    assert list(stream(data, batch_size=64, share=0.0)) == []
