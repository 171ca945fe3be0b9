"""The teacher's past: strictly before, by user and by item, turned into one space, kept to a known error."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.batch import Past
from distill.dataset import DataSet
from distill.past import PastRequest
from distill.past_store import PastStore, write_past
from distill.stream import DayStream
from tests.distill.logged_past import (
    DAY,
    DAYS,
    HOUR,
    WIDTH,
    log_rows,
    representations,
    rows_of,
    write_data,
    write_log,
)

LOGGED = (2, 3, 4, 5)
FROZEN = dict.fromkeys(LOGGED, 1)
"""Days 2 to 5 by one snapshot."""
PROGRESSIVE = {2: 1, 3: 2, 4: 3, 5: 4}
NOON = DAY + 12 * HOUR + 7
"""Of day 2, not on the full hour."""
PLANTED = {2: [(4, 6, NOON), (4, 6, NOON), (4, 6, NOON + 1)], 4: [(4, 6, 3 * DAY + 1)]}
"""Rows of a user and an item that the random rows do not have: ids 2500, 2501, 2502 and 4500."""
BOTH = PastRequest(user_events=3, item=True, alignment="none")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_data(tmp_path_factory.mktemp("data") / "d", PLANTED)


@pytest.fixture(scope="module")
def store(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> PastStore:
    """One snapshot, int8."""
    return stored(tmp_path_factory.mktemp("store"), data, BOTH)


def stored(
    folder: Path,
    data: DataSet,
    request: PastRequest,
    through: dict[int, int] = FROZEN,
    rotations: dict[int, np.ndarray] | None = None,
) -> PastStore:
    log = write_log(folder / "log", data, through)
    write_past(log / "past", data, log, list(through), request, rotations or {})
    return PastStore(log / "past", data, request)


def ask(store: PastStore, user: int, item: int, *times: int) -> dict[str, Past]:
    """What an example of this user and item sees at each of these times."""
    n = len(times)
    return store.read(torch.full((n,), user), np.full(n, item), torch.tensor(times), day=0)


def ask_all(store: PastStore, rows: dict[str, np.ndarray]) -> dict[str, Past]:
    user, time = torch.from_numpy(rows["user"]), torch.from_numpy(rows["time"])
    return store.read(user, rows["item"], time, day=0)


def part(past: Past, b: int) -> slice:
    return slice(int(past.offsets[b]), int(past.offsets[b + 1]))


def orthogonal(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0]


def test_every_row_sees_what_a_plain_search_finds_of_its_user(store: PastStore, data: DataSet) -> None:
    rows, log = rows_of(data, range(1, DAYS + 1)), rows_of(data, LOGGED)
    found, full = ask_all(store, rows)["user"], 0
    for b in range(len(rows["id"])):
        before = np.flatnonzero((log["user"] == rows["user"][b]) & (log["time"] < rows["time"][b]))
        mine = before[np.lexsort((log["id"][before], log["time"][before]))][-3:]
        assert found.time[part(found, b)].tolist() == log["time"][mine].tolist()
        np.testing.assert_allclose(found.values[part(found, b)].numpy(), log["z"][mine], atol=1e-6)
        full += len(mine) == 3
    assert full > 200


@pytest.mark.parametrize("half_life", [0.5, 3.0])
def test_every_row_sees_the_decayed_mean_of_its_items_earlier_days(
    data: DataSet, tmp_path: Path, half_life: float
) -> None:
    request = PastRequest(item=True, alignment="none", half_life_days=half_life)
    store = stored(tmp_path, data, request)
    rows, log = rows_of(data, range(1, DAYS + 1)), rows_of(data, LOGGED)
    past, seen = ask_all(store, rows), 0
    assert list(past) == ["item"]
    found = past["item"]
    for b in range(len(rows["id"])):
        before = (log["item"] == rows["item"][b]) & (log["day"] < rows["day"][b])
        assert found.time[part(found, b)].tolist() == (
            [log["day"][before].max() * DAY - 1] if before.any() else []
        )
        if before.any():
            weights = 0.5 ** ((rows["time"][b] - log["time"][before]) / (half_life * DAY))
            mean = (weights[:, None] * log["z"][before]).sum(0) / weights.sum()
            np.testing.assert_allclose(found.values[part(found, b)].numpy(), mean[None], atol=2e-3)
            seen += 1
    assert seen > 150


def test_planted_leak_siblings_of_one_millisecond_and_later_ones_are_not_seen(store: PastStore) -> None:
    found = ask(store, 4, 0, NOON - 1, NOON, NOON + 1, NOON + 2)["user"]
    assert found.offsets.tolist() == [0, 0, 0, 2, 5]
    expected = representations(np.array([2500, 2501, 2500, 2501, 2502]))
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-6)
    assert found.time.tolist() == [NOON, NOON, NOON, NOON, NOON + 1]


def test_planted_leak_an_item_is_not_seen_before_its_day_is_over(store: PastStore) -> None:
    found = ask(store, 0, 6, NOON + 2, 2 * DAY - 1, 2 * DAY, 3 * DAY)["item"]
    assert found.offsets.tolist() == [0, 0, 0, 1, 2]
    assert found.time.tolist() == [2 * DAY - 1] * 2


def test_an_items_mean_stays_over_days_without_examples_and_takes_the_next(store: PastStore) -> None:
    found = ask(store, 0, 6, 2 * DAY, 4 * DAY - 1, 4 * DAY)["item"]
    values = found.values.numpy()
    np.testing.assert_array_equal(values[0], values[1])
    ages = np.array([4 * DAY - time for time in (NOON, NOON, NOON + 1, 3 * DAY + 1)])
    weights = 0.5 ** (ages / (3.0 * DAY))
    expected = (weights[:, None] * representations(np.array([2500, 2501, 2502, 4500]))).sum(0) / weights.sum()
    np.testing.assert_allclose(values[2], expected, atol=1e-3)
    assert found.time.tolist() == [2 * DAY - 1, 2 * DAY - 1, 4 * DAY - 1]


def test_a_row_that_comes_late_does_not_see_the_day_that_ends_after_it(store: PastStore) -> None:
    """A row of day 3 with a time of day 2: by day it might see day 2, by time it must not."""
    past = store.read(torch.tensor([0]), np.array([6]), torch.tensor([2 * DAY - 1]), day=3)
    assert past["item"].offsets.tolist() == [0, 0]


@pytest.mark.parametrize("user", [4, 99, -1])
def test_users_unknown_or_without_stored_events_have_none(store: PastStore, user: int) -> None:
    """User 4 has an event from before the log, and its first logged one at noon."""
    past = store.read(torch.tensor([user, 4]), np.array([0, 0]), torch.tensor([NOON, NOON + 1]), day=2)
    assert past["user"].offsets.tolist() == [0, 0, 2]


@pytest.mark.parametrize("item", [5, 99, -1])
def test_items_unknown_or_never_seen_have_none(store: PastStore, item: int) -> None:
    past = store.read(torch.tensor([0, 0]), np.array([item, 6]), torch.tensor([5 * DAY, 5 * DAY]), day=5)
    assert past["item"].offsets.tolist() == [0, 0, 1]


def test_days_before_the_first_logged_one_are_not_seen(store: PastStore, data: DataSet) -> None:
    early = rows_of(data, [1])
    early["time"] = np.full(len(early["id"]), DAY)
    past = ask_all(store, early)
    assert past["user"].values.shape == (0, WIDTH) and past["item"].values.shape == (0, WIDTH)


def test_a_users_very_first_event_is_the_users_own(data: DataSet, tmp_path: Path) -> None:
    """Logged from day 1 on, and no event from before: the first of a user's part of the index has a vector."""
    store = stored(tmp_path, data, PastRequest(user_events=1000, alignment="none"), {1: 0})
    log = rows_of(data, [1])
    assert len(log["id"]) == 60
    for user in range(4):
        mine = np.flatnonzero(log["user"] == user)
        mine = mine[np.lexsort((log["id"][mine], log["time"][mine]))]
        np.testing.assert_allclose(ask(store, user, 0, DAY)["user"].values, log["z"][mine], atol=1e-6)


def test_dtypes_are_those_of_the_batch(store: PastStore) -> None:
    for past in ask(store, 4, 6, 5 * DAY).values():
        assert [past.offsets.dtype, past.time.dtype] == [torch.int64] * 2
        assert past.values.dtype == torch.float32


def test_a_store_serves_any_number_of_events(store: PastStore, data: DataSet) -> None:
    one = PastStore(store.folder, data, PastRequest(user_events=1, alignment="none"))
    past = ask(one, 4, 6, NOON + 2)
    assert list(past) == ["user"]
    np.testing.assert_allclose(past["user"].values, representations(np.array([2502])), atol=1e-6)


def test_rows_that_were_not_logged_are_left_out(data: DataSet, tmp_path: Path) -> None:
    """A domain teacher logs the rows of its surfaces."""
    ids = np.array([2501, 2502])
    log_rows(tmp_path / "log", 2, 1, ids, representations(ids))
    write_past(tmp_path / "past", data, tmp_path / "log", [2], BOTH, {})
    found = ask(PastStore(tmp_path / "past", data, BOTH), 4, 6, 2 * DAY)["user"]
    np.testing.assert_allclose(found.values, representations(ids), atol=1e-6)


def test_a_day_without_rows_leaves_an_empty_store(data: DataSet, tmp_path: Path) -> None:
    none = np.zeros(0, np.int64)
    log_rows(tmp_path / "log", 2, 1, none, representations(none))
    write_past(tmp_path / "past", data, tmp_path / "log", [2], BOTH, {})
    past = ask(PastStore(tmp_path / "past", data, BOTH), 4, 6, 5 * DAY)
    assert [found.values.shape for found in past.values()] == [(0, WIDTH)] * 2


@pytest.mark.parametrize(("codec", "bound"), [("int8", 1 / 254), ("fp16", 2**-11)])
def test_days_are_turned_into_the_first_snapshots_space(
    data: DataSet, tmp_path: Path, codec: str, bound: float
) -> None:
    rotations = {2: orthogonal(1), 3: orthogonal(2), 4: orthogonal(3)}
    request = PastRequest(user_events=1000, codec=codec)
    store = stored(tmp_path, data, request, PROGRESSIVE, rotations)
    log = rows_of(data, LOGGED)
    turned = {2: np.eye(WIDTH), 3: rotations[2], 4: rotations[3], 5: rotations[4]}
    z = np.stack([row @ turned[day] for row, day in zip(log["z"], log["day"], strict=True)])
    largest = np.abs(z).max()
    assert largest > 1.2  # beyond what an unturned number may be
    for user in range(5):
        mine = np.flatnonzero(log["user"] == user)
        mine = mine[np.lexsort((log["id"][mine], log["time"][mine]))]
        found = ask(store, user, 0, 6 * DAY)["user"]
        np.testing.assert_allclose(found.values.numpy(), z[mine], atol=largest * bound * 1.001)


def test_items_are_turned_as_well(data: DataSet, tmp_path: Path) -> None:
    request, turn = PastRequest(item=True), orthogonal(1)
    store = stored(tmp_path, data, request, {2: 1, 4: 3}, {3: turn})
    weights = 0.5 ** (
        np.array([4 * DAY - time for time in (NOON, NOON, NOON + 1, 3 * DAY + 1)]) / (3.0 * DAY)
    )
    z = representations(np.array([2500, 2501, 2502, 4500])).astype(np.float64)
    z[3] = z[3] @ turn
    expected = (weights[:, None] * z).sum(0) / weights.sum()
    np.testing.assert_allclose(ask(store, 0, 6, 4 * DAY)["item"].values[0], expected, atol=1e-3)


def test_the_first_snapshot_may_have_a_rotation_of_its_own(data: DataSet, tmp_path: Path) -> None:
    turn = orthogonal(1)
    store = stored(tmp_path, data, PastRequest(user_events=1), {2: 1}, {1: turn})
    found = ask(store, 4, 6, NOON + 2)["user"]
    expected = representations(np.array([2502])) @ turn
    np.testing.assert_allclose(found.values, expected, atol=np.sqrt(WIDTH) / 254)


def test_an_int8_log_of_one_snapshot_is_kept_as_it_is(store: PastStore) -> None:
    assert store.facts.user is not None and store.facts.user.step == 1 / 127
    codes = np.load(store.folder / "user" / "codes.npy")
    expected = np.rint(representations(np.array([2500, 2501, 2502, 4500])) * 127)
    np.testing.assert_array_equal(codes[-4:], expected)  # user 4 is the last


def test_no_batch_of_a_stream_sees_itself_or_later(store: PastStore, data: DataSet) -> None:
    for day in LOGGED:
        for batch in DayStream(data, day, 16, ("user_id",), past=store):
            for past in batch.past.values():
                now = batch.timestamp.repeat_interleave(past.offsets.diff())
                assert (past.time < now).all()
            assert batch.past["user"].offsets.numel() == len(batch) + 1
            assert batch.past["item"].offsets.diff().max() <= 1


def test_a_pickled_store_reads_the_same(store: PastStore) -> None:
    before = ask(store, 4, 6, 5 * DAY)
    again: PastStore = pickle.loads(pickle.dumps(store))
    assert "_opened" not in vars(again)  # its arguments, not its files
    for name, past in ask(again, 4, 6, 5 * DAY).items():
        assert torch.equal(past.values, before[name].values)


def test_facts_say_how_much_is_stored(store: PastStore, data: DataSet) -> None:
    log, facts = rows_of(data, LOGGED), store.facts
    assert facts.user is not None and facts.item is not None
    assert (facts.dim, facts.snapshots, list(facts.days)) == (WIDTH, [1], list(LOGGED))
    assert (facts.user.keys, facts.user.vectors) == (5, len(log["id"]))
    assert (facts.item.keys, facts.item.vectors) == (5, 4 * 4 + 2)  # items 0 to 3 on each day, item 6 on two
    assert facts.shown() == {
        "representation width": WIDTH,
        "bytes per user": round(len(log["id"]) * (WIDTH + 8) / 5),
        "bytes per item": round(18 * (2 * WIDTH + 8) / 5),
    }
