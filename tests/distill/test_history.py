"""The history index: strictly before, oldest first, matured labels only."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.batch import Events
from distill.errors import DataError
from distill.history import EventStore, last_before, positions
from distill.sources.events import EventBuilder

ABC: dict[str, list] = {
    # user 3: events at 10, 20, 30; user 8: one at 20. They arrive out of order.
    "user_id": [3, 8, 3, 3],
    "time": [30, 20, 10, 20],
    "item": [103, 208, 101, 102],
    "domain": [0, 1, 1, 0],
    "labels": [[1, 1], [0, 0], [1, 0], [-1, 1]],
    "matures": [[30, 90], [20, 20], [10, 10], [20, 50]],
    "example_id": [73, 78, -1, 72],
}


def build(folder: Path, columns: dict[str, list], tasks: int = 2) -> EventStore:
    builder = EventBuilder(folder / "events", tasks)
    arrays = {name: np.array(values, np.int64) for name, values in columns.items()}
    arrays["labels"] = arrays["labels"].reshape(-1, tasks)
    arrays["matures"] = arrays["matures"].reshape(-1, tasks)
    builder.append(**arrays)
    builder.build()
    return EventStore(folder / "events")


def ask(store: EventStore, queries: list[tuple[int, int]], limit: int = 10) -> Events:
    users, times = (torch.tensor(column, dtype=torch.int64) for column in zip(*queries, strict=True))
    return store.last(users, times, limit)


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    return build(tmp_path, ABC)


def test_events_come_oldest_first_for_each_query(store: EventStore) -> None:
    events = ask(store, [(8, 100), (3, 100)])
    assert events.offsets.tolist() == [0, 1, 4]
    assert events.item.tolist() == [208, 101, 102, 103]
    assert events.time.tolist() == [20, 10, 20, 30]
    assert events.domain.tolist() == [1, 1, 0, 0]


def test_dtypes_are_those_of_the_batch(store: EventStore) -> None:
    events = ask(store, [(3, 100)])
    assert [events.offsets.dtype, events.item.dtype, events.time.dtype, events.domain.dtype] == [
        torch.int64
    ] * 4
    assert events.labels.dtype == torch.int8


def test_limit_keeps_the_newest(store: EventStore) -> None:
    assert ask(store, [(3, 100)], limit=2).item.tolist() == [102, 103]


def test_planted_leak_event_at_the_same_millisecond_is_not_seen(store: EventStore) -> None:
    assert ask(store, [(3, 30)]).item.tolist() == [101, 102]


def test_planted_leak_future_event_is_not_seen(store: EventStore) -> None:
    assert ask(store, [(3, 11)]).item.tolist() == [101]


def test_event_one_millisecond_before_is_seen(store: EventStore) -> None:
    assert ask(store, [(3, 31)]).item.tolist() == [101, 102, 103]


def test_planted_leak_immature_label_is_hidden(store: EventStore) -> None:
    # At 89 the second label of the event at 30 is not known, at 90 it is.
    assert ask(store, [(3, 89)]).labels.tolist() == [[1, 0], [-1, 1], [1, -1]]
    assert ask(store, [(3, 90)]).labels.tolist() == [[1, 0], [-1, 1], [1, 1]]


def test_queries_of_one_batch_do_not_share_maturity(store: EventStore) -> None:
    assert ask(store, [(3, 40), (3, 60)]).labels[:, 1].tolist() == [0, -1, -1, 0, 1, -1]


@pytest.mark.parametrize("query", [(7, 100), (-1, 100), (9, 100), (3, 10), (3, -5)])
def test_no_events_for_unknown_users_and_before_the_first(store: EventStore, query: tuple[int, int]) -> None:
    events = ask(store, [query, (8, 100)])
    assert events.offsets.tolist() == [0, 0, 1]
    assert events.item.tolist() == [208]


def test_empty_store_has_no_events(tmp_path: Path) -> None:
    empty = build(tmp_path, {name: [] for name in ABC})
    events = ask(empty, [(3, 100), (4, 100)])
    assert events.offsets.tolist() == [0, 0, 0]
    assert events.labels.shape == (0, 2)


def test_events_of_one_time_keep_the_order_of_arrival(tmp_path: Path) -> None:
    same = {"user_id": [1] * 3, "time": [5] * 3, "item": [30, 10, 20], "domain": [0] * 3}
    store = build(
        tmp_path, same | {"labels": [[0]] * 3, "matures": [[5]] * 3, "example_id": [-1] * 3}, tasks=1
    )
    assert ask(store, [(1, 6)]).item.tolist() == [30, 10, 20]


def test_parts_appended_one_by_one_give_the_same_index(tmp_path: Path) -> None:
    builder = EventBuilder(tmp_path / "parts", 2)
    for row in range(4):
        builder.append(**{name: np.array(values[row : row + 1]) for name, values in ABC.items()})
    builder.build()
    queries = [(3, 100), (8, 100), (3, 60)]
    assert ask(EventStore(tmp_path / "parts"), queries).labels.equal(
        ask(build(tmp_path, ABC), queries).labels
    )


def test_every_event_carries_its_example(store: EventStore) -> None:
    assert store.example_id.tolist() == [-1, 72, 73, 78]  # user 3, oldest first, then user 8


def test_one_look_up_serves_any_keys_with_rising_times() -> None:
    # Key 2 has entries at days 1, 4, 4, 6; key 5 one at day 4.
    keys, offsets, days = np.array([2, 5]), np.array([0, 4, 5]), np.array([1, 4, 4, 6, 4])
    asked, now = np.array([2, 2, 5, 5, 3]), np.array([4, 6, 4, 5, 9])
    start, stop = last_before(keys, offsets, days, asked, now, limit=2)
    assert start.tolist()[:4] == [0, 1, 4, 4] and stop.tolist()[:4] == [1, 3, 4, 5]
    assert start[4] == stop[4]


def test_positions_of_all_queries_lie_one_after_the_other() -> None:
    offsets, index = positions(np.array([3, 7, 0]), np.array([5, 7, 1]))
    assert offsets.tolist() == [0, 2, 2, 3]
    assert index.tolist() == [3, 4, 0]


def test_random_histories_equal_a_plain_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, tasks = 400, 3
    time = rng.integers(0, 60, n)
    columns = {
        "user_id": rng.integers(0, 12, n) * 7,
        "time": time,
        "item": np.arange(n),
        "domain": rng.integers(0, 3, n),
        "labels": rng.integers(-1, 2, (n, tasks)),
        # One task at once, one late, one sometimes very late.
        "matures": time[:, None]
        + np.stack([np.zeros(n), rng.integers(0, 20, n), rng.integers(0, 3, n) * 40], 1),
        "example_id": np.arange(n),
    }
    store = build(tmp_path, {name: values.tolist() for name, values in columns.items()}, tasks)
    queries = list(zip(rng.integers(0, 90, 200).tolist(), rng.integers(-2, 70, 200).tolist(), strict=True))
    events = ask(store, queries, limit=6)
    for b, (user, now) in enumerate(queries):
        mine = [
            e for e in np.argsort(time, kind="stable") if columns["user_id"][e] == user and time[e] < now
        ][-6:]
        part = slice(int(events.offsets[b]), int(events.offsets[b + 1]))
        assert events.item[part].tolist() == mine
        assert events.domain[part].tolist() == columns["domain"][mine].tolist()
        visible = np.where(columns["matures"][mine] <= now, columns["labels"][mine], -1)
        assert events.labels[part].tolist() == visible.tolist()


def test_a_pickled_store_reads_the_same(store: EventStore) -> None:
    blob = pickle.dumps(store)
    assert len(blob) < 1000  # its folder, not its events
    assert ask(pickle.loads(blob), [(3, 100)]).item.tolist() == [101, 102, 103]


def test_missing_file_is_named(store: EventStore) -> None:
    (store.folder / "item.npy").unlink()
    with pytest.raises(DataError, match=r"item\.npy: not readable"):
        EventStore(store.folder)


def test_cut_off_file_is_named(store: EventStore) -> None:
    path = store.folder / "time.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"time\.npy: not readable"):
        EventStore(store.folder)


def test_columns_of_unequal_length_are_refused(store: EventStore) -> None:
    np.save(store.folder / "domain.npy", np.zeros(3, np.int32))
    with pytest.raises(DataError, match="columns differ in length"):
        EventStore(store.folder)


def test_scratch_files_are_gone(store: EventStore) -> None:
    assert not list(store.folder.glob("*.tmp"))
