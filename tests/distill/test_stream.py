"""The day stream: what is in a batch and in which order, shared out to shards, resumed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from distill.batch import Batch, TeacherSignal
from distill.dataset import DataSet
from distill.errors import DataError
from distill.sources import writer
from distill.stream import DayStream, _Plan
from tests.distill.prepared_data import (
    FEATURES,
    all_rows,
    day_table,
    stream,
    write_content,
    write_one_day,
    write_small,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two days of 10 rows; read only."""
    return write_small(tmp_path_factory.mktemp("data") / "small")


def same(a: Batch, b: Batch) -> bool:
    tensors = ("example_id", "user_id", "timestamp", "domain", "dense", "labels", "label_mask")
    histories = a.history is b.history is None or (
        a.history is not None
        and b.history is not None
        and all(torch.equal(getattr(a.history, n), getattr(b.history, n)) for n in vars(a.history))
    )
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
        and torch.equal(a.sparse.values(), b.sparse.values())
        and torch.equal(a.sparse.lengths(), b.sparse.lengths())
        and histories
    )


# What is in a batch


def test_rows_come_in_order_and_the_last_batch_is_short(shared: DataSet) -> None:
    batches = list(stream(shared, day=2))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert all_rows(batches, "example_id").tolist() == list(range(200_000, 200_010))
    assert {batch.day for batch in batches} == {2}


def test_columns_are_those_of_the_rows(shared: DataSet) -> None:
    batch = list(stream(shared))[1]  # rows 4, 5, 6, 7
    assert batch.user_id.tolist() == [4, 0, 1, 2]
    assert batch.timestamp.tolist() == [400, 500, 600, 700]
    assert batch.domain.tolist() == [0, 1, 0, 1]
    assert batch.dense.tolist() == [[-4.0, 1.0], [-5.0, 1.25], [-6.0, 1.5], [-7.0, 1.75]]
    assert batch.history is None and batch.teacher is None


def test_sparse_features_keep_the_asked_order_with_a_multi_valued_one_between(shared: DataSet) -> None:
    sparse = list(stream(shared))[1].sparse
    assert sparse.keys() == list(FEATURES)
    assert sparse.stride() == 4
    assert sparse["item_id"].values().tolist() == [4, 5, 6, 0]
    assert sparse["tags"].lengths().tolist() == [1, 2, 0, 1]
    assert sparse["tags"].values().tolist() == [0, 0, 1, 0]
    assert sparse["user_id"].values().tolist() == [4, 0, 1, 2]
    assert sparse.offsets().tolist() == [0, 1, 2, 3, 4, 5, 7, 7, 8, 9, 10, 11, 12]


def test_single_valued_features_alone(shared: DataSet) -> None:
    batches = list(DayStream(shared, 1, 4, ("user_id", "item_id")))
    sparse = batches[2].sparse  # rows 8, 9
    assert sparse.keys() == ["user_id", "item_id"]
    assert sparse.values().tolist() == [3, 4, 1, 2]
    assert sparse.lengths().tolist() == [1, 1, 1, 1]
    assert sparse.offsets().tolist() == [0, 1, 2, 3, 4]
    assert batches[2].dense.shape == (2, 0)


def test_dtypes_are_those_of_the_contract(shared: DataSet) -> None:
    batch = next(iter(stream(shared)))
    ids = (batch.example_id, batch.user_id, batch.timestamp, batch.domain, batch.sparse.values())
    assert {tensor.dtype for tensor in ids} == {torch.int64}
    assert batch.dense.dtype == batch.labels.dtype == torch.float32
    assert batch.label_mask.dtype == torch.bool


def test_planted_leak_label_whose_window_is_open_at_the_days_end_is_masked(tmp_path: Path) -> None:
    # The day ends at 1000 and an order's window is 100: a row at 900 is matured exactly then, one at 901 not.
    times = [*range(0, 800, 100), 900, 901]
    data = write_one_day(
        tmp_path / "d", day_table(1, timestamp=times, label_click=[1] * 10, label_order=[1] * 10)
    )
    batch = next(iter(stream(data, batch_size=10)))
    assert batch.label_mask[8:].tolist() == [[True, True], [True, False]]
    assert batch.labels[8:].tolist() == [[1.0, 1.0], [1.0, 0.0]]


def test_planted_leak_label_known_only_after_the_day_is_masked(tmp_path: Path) -> None:
    matures = [0, 1000, 1001, None, *[0] * 6]
    table = day_table(1, label_click=[1] * 10).append_column("matures_click", [matures])
    batch = next(iter(stream(write_one_day(tmp_path / "d", table), batch_size=10)))
    assert batch.label_mask[:, 0].tolist() == [True, True, False, *[True] * 7]
    assert batch.labels[:4, 0].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_planted_leak_early_positive_waits_for_its_window_too(tmp_path: Path) -> None:
    # Else the mask would tell which of the late rows convert: those that are known already.
    table = day_table(1, timestamp=[*range(0, 800, 100), 950, 951], label_order=[0] * 8 + [1, 0])
    table = table.append_column("matures_order", [[0] * 8 + [955, 1051]])
    batch = next(iter(stream(write_one_day(tmp_path / "d", table), batch_size=10)))
    assert batch.label_mask[8:, 1].tolist() == [False, False]


def test_label_that_is_not_known_is_masked(shared: DataSet) -> None:
    mask = next(iter(stream(shared, batch_size=10))).label_mask
    assert mask[:, 0].all()
    assert mask[:, 1].tolist() == [True] * 4 + [False] + [True] * 4 + [False]


def test_labels_follow_the_schemas_tasks(shared: DataSet) -> None:
    labels = next(iter(stream(shared, batch_size=10))).labels
    assert labels[:, 0].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert labels[:, 1].tolist() == [1, 0, 0, 0, 0, 0, 1, 0, 0, 0]


def test_history_is_what_came_before_each_row(shared: DataSet) -> None:
    history = next(iter(stream(shared, day=2, batch_size=10, history_length=2))).history
    assert history is not None
    # User 0 has rows 0 and 5 of each day: items 0 and 5.
    events = [history.item[history.offsets[b] : history.offsets[b + 1]].tolist() for b in (0, 5)]
    assert events == [[0, 5], [5, 0]]
    assert history.time[:2].tolist() == [0, 500]


def test_teacher_is_joined_by_example_and_day(shared: DataSet) -> None:
    class Echo:
        def join(self, example_id: Tensor, day: int) -> TeacherSignal:
            return TeacherSignal(
                example_id.float()[:, None].repeat(1, 2) + day, torch.ones(4, dtype=torch.bool), torch.ones(4)
            )

    batch = next(iter(stream(shared, teacher=Echo())))
    assert batch.teacher is not None
    assert batch.teacher.logits[:, 0].tolist() == [100_001.0, 100_002.0, 100_003.0, 100_004.0]


def test_only_the_wanted_surface(shared: DataSet) -> None:
    wanted = stream(shared, domains=["reels"])
    batches = list(wanted)
    assert (wanted.reader.rows, len(wanted)) == (5, 2)
    assert all_rows(batches, "example_id").tolist() == [100_001, 100_003, 100_005, 100_007, 100_009]
    assert batches[1].sparse["tags"].lengths().tolist() == [0]
    assert batches[0].sparse["tags"].values().tolist() == [0, 0, 1, 0]


def test_batches_do_not_depend_on_row_groups(
    tmp_path: Path, shared: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "ROW_GROUP", 3)
    small_groups = write_small(tmp_path / "groups")
    for options in ({}, {"domains": ["feed"]}, {"history_length": 3}):
        ours, theirs = list(stream(small_groups, **options)), list(stream(shared, **options))
        assert len(ours) == len(theirs)
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_second_pass_is_the_same(shared: DataSet) -> None:
    one = stream(shared)
    assert all(same(a, b) for a, b in zip(list(one), list(one), strict=True))


# Shards


@given(rows=st.integers(1, 200), batch_size=st.integers(1, 9), shards=st.integers(1, 5))
def test_shards_get_equally_many_batches_and_every_row_once(rows: int, batch_size: int, shards: int) -> None:
    if rows < shards:
        return
    plans = [_Plan(rows, batch_size, shard, shards) for shard in range(shards)]
    bounds = [plan.bounds(step) for plan in plans for step in range(plan.steps)]
    assert len({plan.steps for plan in plans}) == 1
    assert all(start < stop for start, stop in bounds)
    assert sorted(row for start, stop in bounds for row in range(start, stop)) == list(range(rows))
    assert all(stop - start <= batch_size + 1 for start, stop in bounds)


def test_shards_of_a_day(shared: DataSet) -> None:
    first, second = (list(stream(shared, batch_size=3, shard=shard, num_shards=2)) for shard in (0, 1))
    assert [batch.example_id.tolist() for batch in first] == [[100_000, 100_001, 100_002], [100_006, 100_007]]
    assert [batch.example_id.tolist() for batch in second] == [
        [100_003, 100_004, 100_005],
        [100_008, 100_009],
    ]


def test_more_shards_than_rows_are_refused(shared: DataSet) -> None:
    with pytest.raises(DataError, match="got 11 for a day of 10 rows"):
        len(stream(shared, num_shards=11))


# Resuming


@pytest.mark.parametrize("seen", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"domains": ["feed"], "batch_size": 2}, {"shard": 1, "num_shards": 2}]
)
def test_resume_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: int, options: dict
) -> None:
    monkeypatch.setattr(writer, "ROW_GROUP", 3)
    data = write_small(tmp_path / "groups")
    whole = list(stream(data, history_length=2, **options))
    first, second = stream(data, history_length=2, **options), stream(data, history_length=2, **options)
    iterator = iter(first)
    for _ in range(min(seen, len(whole))):
        next(iterator)
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(state)
    rest = list(second)
    assert len(rest) == len(whole) - min(seen, len(whole))
    assert all(same(a, b) for a, b in zip(whole[seen:], rest, strict=True))
    assert all(
        same(a, b) for a, b in zip(whole, list(second), strict=True)
    )  # and afterwards the whole day again


def test_position_names_row_group_and_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROW_GROUP", 3)
    one = stream(write_small(tmp_path / "groups"))
    iterator = iter(one)
    next(iterator)
    state = one.state_dict()  # 4 rows read: row groups hold rows 0-2, 3-5, ...
    assert {key: state[key] for key in ("day", "rows_per_step", "row_group", "row")} == {
        "day": 1,
        "rows_per_step": 4,
        "row_group": 1,
        "row": 1,
    }


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("seen", [1, 2])
def test_resume_inside_stateful_dataloader(shared: DataSet, workers: int, seen: int) -> None:
    def loader() -> StatefulDataLoader:
        return StatefulDataLoader(stream(shared, history_length=2), batch_size=None, num_workers=workers)

    whole = list(stream(shared, history_length=2))
    first = loader()
    iterator = iter(first)
    for _ in range(seen):
        next(iterator)
    second = loader()
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == 3 - seen
    assert all(same(a, b) for a, b in zip(whole[seen:], rest, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"day": 2}, "day: got 1, allowed: 2"),
        ({"batch_size": 5}, "rows_per_step: got 4, allowed: 5"),
        ({"num_shards": 2}, "rows_per_step: got 4, allowed: 8"),
        ({"domains": ["feed"]}, "rows: got 10, allowed: 5"),
    ],
)
def test_position_of_another_stream_is_refused(shared: DataSet, change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        stream(shared, **change).load_state_dict(stream(shared).state_dict())


def test_other_shards_go_on_from_the_same_row(shared: DataSet) -> None:
    whole = list(stream(shared, batch_size=4))
    one = stream(shared, batch_size=4)
    next(iter(one))
    both = [stream(shared, batch_size=2, shard=shard, num_shards=2) for shard in (0, 1)]
    for half in both:
        half.load_state_dict(one.state_dict())
    rest = [batch.example_id for pair in zip(*both, strict=True) for batch in pair]
    assert torch.cat(rest).tolist() == torch.cat([batch.example_id for batch in whole[1:]]).tolist()


def test_dataloader_without_workers_yields_the_batches(shared: DataSet) -> None:
    loaded = list(DataLoader(stream(shared), batch_size=None))
    assert all(same(a, b) for a, b in zip(loaded, list(stream(shared)), strict=True))


def test_two_workers_are_refused(shared: DataSet) -> None:
    with pytest.raises(DataError, match="got 2, allowed: 0 or 1"):
        list(DataLoader(stream(shared), batch_size=None, num_workers=2))


# Content vectors


@pytest.fixture(scope="module")
def with_content(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_content(tmp_path_factory.mktemp("content") / "d")


def test_examples_get_the_vectors_of_their_items(with_content: DataSet) -> None:
    batch = list(stream(with_content, content=("image",)))[0]  # rows 0 to 3
    assert list(batch.content) == ["image"]
    image = batch.content["image"]
    assert image.item.tolist() == [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5], [0.0, 0.0]]
    assert image.item_known.tolist() == [True, True, True, False]
    assert image.events is None and image.events_known is None


def test_events_get_the_vectors_of_theirs(with_content: DataSet) -> None:
    batch = next(iter(stream(with_content, day=2, content=("text", "image"), history_length=2)))
    assert batch.history is not None and list(batch.content) == ["text", "image"]
    assert batch.history.item.tolist() == [0, 5, 1, 6, 2, 0, 3, 1]
    image, text = batch.content["image"], batch.content["text"]
    assert image.events is not None and image.events_known is not None and text.events is not None
    assert image.events[:, 0].tolist() == [0, 5, 1, 6, 2, 0, 0, 1]
    assert image.events_known.tolist() == [True] * 6 + [False, True]
    assert text.events[:, 0].tolist() == [0, 0, 0, -1, 0, 0, 0, 0]


def test_a_batch_without_events_has_no_vectors_of_events(with_content: DataSet) -> None:
    image = next(iter(stream(with_content, content=("image",), history_length=2))).content["image"]
    assert image.events is not None and image.events_known is not None  # the first rows of all
    assert image.events.shape == (0, 2) and image.events_known.shape == (0,)


@pytest.mark.parametrize("features", [("user_id",), ("user_id", "tags"), ("tags", "user_id")])
def test_vectors_do_not_need_the_item_among_the_features(
    with_content: DataSet, features: tuple[str, ...]
) -> None:
    bare = DayStream(with_content, 1, 4, features, domains=["reels"])
    batches = zip(
        bare, DayStream(with_content, 1, 4, features, domains=["reels"], content=["image"]), strict=True
    )
    for without, batch in batches:
        assert same(without, batch) and batch.sparse.keys() == list(features)
        # Rows 1, 3, 5, 7, 9 of the day: items 1, 3, 5, 0, 2.
        expected = [1, 0, 5, 0] if len(batch) == 4 else [2]
        assert batch.content["image"].item[:, 0].tolist() == expected


def test_nothing_is_looked_up_that_was_not_asked_for(with_content: DataSet) -> None:
    assert next(iter(stream(with_content))).content == {}


def test_content_resumes_in_mid_day_in_a_worker(with_content: DataSet) -> None:
    whole = list(stream(with_content, content=("image",), history_length=3))
    later = stream(with_content, content=("image",), history_length=3)
    later.load_state_dict({**later.state_dict(), "row_group": 0, "row": 4})
    rest = list(DataLoader(later, batch_size=None, num_workers=1))
    assert len(rest) == 2
    for batch, expected in zip(rest, whole[1:], strict=True):
        for name, value in vars(expected.content["image"]).items():
            assert torch.equal(getattr(batch.content["image"], name), value)


def test_content_moves_with_its_batch(with_content: DataSet) -> None:
    batch = next(iter(stream(with_content, content=("image", "text"))))
    moved = batch.to(torch.device("meta"))
    assert {vectors.item.device.type for vectors in moved.content.values()} == {"meta"}
    assert moved.content["image"].item_known.device.type == "meta" and moved.content["image"].events is None
    assert batch.to(torch.device("cpu")) is batch


def test_unknown_modality_is_refused(with_content: DataSet, shared: DataSet) -> None:
    with pytest.raises(DataError, match="content: got 'video', allowed: image, text"):
        stream(with_content, content=("video",))
    with pytest.raises(DataError, match=r"content: got 'image', allowed: none"):
        stream(shared, content=("image",))
