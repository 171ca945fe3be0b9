"""Writing a prepared data set: complete or not at all, in the contract's form, and what is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distill.dataset import DataSet
from distill.errors import DataError
from distill.history import EventStore
from distill.schema import FeatureSchema
from distill.sources import writer as writer_module
from distill.sources.writer import PreparedWriter
from tests.distill.prepared_data import day_columns, day_table, replaced, small_schema, write_small


def writer(folder: Path, days: int = 1, fingerprint: str = "a" * 64) -> PreparedWriter:
    return PreparedWriter(folder, small_schema(days), source="test", fingerprint=fingerprint)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_has_the_contracts_form(tmp_path: Path) -> None:
    data = write_small(tmp_path / "d")
    assert names_in(data.folder) == ["days", "events", "manifest.json", "schema.yaml"]
    assert json.loads((data.folder / "manifest.json").read_text()) == {
        "source": "test",
        "fingerprint": "f" * 64,
        "rows": 20,
        "rows_per_day": {"1": 10, "2": 10},
        "complete": True,
    }
    assert FeatureSchema.load(data.folder / "schema.yaml") == small_schema()
    assert [path.relative_to(data.folder).as_posix() for path in data.parts(2)] == [
        "days/day=0002/part-0.parquet"
    ]


def test_others_may_read_the_folder(tmp_path: Path) -> None:
    assert write_small(tmp_path / "d").folder.stat().st_mode & 0o777 == 0o755


def test_columns_have_the_contracts_types_whatever_came_in(tmp_path: Path) -> None:
    table = day_table(1).append_column("matures_order", [[0] * 10])
    narrow = table.set_column(
        table.column_names.index("item_id"), "item_id", table["item_id"].cast(pa.uint8())
    )
    with writer(tmp_path / "d") as out:
        out.write_day(1, narrow)
    types = pq.read_schema(DataSet.open(tmp_path / "d").parts(1)[0])
    assert {name: str(types.field(name).type) for name in types.names} == {
        "example_id": "int64",
        "user_id": "int64",
        "timestamp": "int64",
        "domain": "int32",
        "tags": "list<element: int64>",
        "item_id": "int64",
        "price": "float",
        "length": "float",
        "label_click": "int8",
        "label_order": "int8",
        "matures_order": "int64",
    }


def test_pieces_of_a_day_become_full_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "ROW_GROUP", 4)
    table = day_table(1)
    with writer(tmp_path / "d") as out:
        for start, stop in ((0, 3), (3, 3), (3, 9), (9, 10)):
            out.write_day(1, table.slice(start, stop - start))
    file = pq.ParquetFile(DataSet.open(tmp_path / "d").parts(1)[0])
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 2]
    assert file.read()["example_id"].to_pylist() == day_columns(1)["example_id"]


def test_rows_become_events_with_their_maturity(tmp_path: Path) -> None:
    data = write_small(tmp_path / "d", days=1)
    # User 1: row 1 (at 100, item 1, surface 1), row 6 (at 600, item 6, surface 0, click, order; window 100).
    at = torch.tensor([699, 700])
    events = EventStore(data.events_folder).last(torch.tensor([1, 1]), at, limit=5)
    assert events.item.tolist() == [1, 6, 1, 6]
    assert events.domain.tolist() == [1, 0, 1, 0]
    assert events.time.tolist() == [100, 600, 100, 600]
    assert events.labels.tolist() == [[0, 0], [1, -1], [0, 0], [1, 1]]


def test_extra_events_come_before_the_rows(tmp_path: Path) -> None:
    with writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1))
        out.add_events(
            np.array([1, 4]),
            np.array([-20, -10]),
            np.array([5, 3]),
            np.array([1, 0]),
            np.array([[1, 1], [-1, -1]]),
            np.array([[0, 500], [0, 0]]),
        )
    events = EventStore(tmp_path / "d" / "events").last(
        torch.tensor([1, 1]), torch.tensor([499, 500]), limit=5
    )
    assert events.item.tolist() == [5, 1, 5, 1]
    assert events.labels.tolist() == [[1, -1], [0, 0], [1, 1], [0, 0]]


def test_events_of_rows_carry_their_example_and_extra_ones_none(tmp_path: Path) -> None:
    with writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1))
        one = np.array([4])
        out.add_events(one, np.array([-10]), one, np.array([0]), np.array([[1, 1]]), np.zeros((1, 2)))
    ids = EventStore(tmp_path / "d" / "events").example_id.tolist()
    # Two rows of each user 0 to 4, in order; user 4 has an event from before.
    assert ids == [100_000 + i for i in (0, 5, 1, 6, 2, 7, 3, 8)] + [-1, 100_004, 100_009]


def test_labels_of_extra_events_wait_for_their_window(tmp_path: Path) -> None:
    with writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1))
        one = np.array([4])
        out.add_events(one, np.array([-10]), one, np.array([0]), np.array([[1, 1]]), np.zeros((1, 2)))
    store = EventStore(tmp_path / "d" / "events")
    events = store.last(torch.tensor([4, 4]), torch.tensor([89, 90]), limit=1)
    assert events.labels.tolist() == [[1, -1], [1, 1]]


def test_truth_lies_beside_the_days(tmp_path: Path) -> None:
    with writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1))
        out.write_truth(1, np.arange(2), {"click": np.array([0.25, 0.5]), "order": np.array([0.0, 1.0])})
    truth = pq.read_table(tmp_path / "d" / "truth" / "day=0001.parquet")
    assert truth.to_pydict() == {"example_id": [0, 1], "p_click": [0.25, 0.5], "p_order": [0.0, 1.0]}


def test_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1))
        raise RuntimeError("stop")
    assert names_in(tmp_path) == []


FULL_DISK = {
    "row group": (pq.ParquetWriter, "write_table"),
    "history": (writer_module.EventBuilder, "build"),
    "content": (writer_module.ContentBuilder, "build"),
}


@pytest.mark.parametrize("where", FULL_DISK)
def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, method = FULL_DISK[where]
    monkeypatch.setattr(owner, method, full)
    with pytest.raises(DataError, match=r"the disk is full; .*data\.cache"), writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1))
    assert names_in(tmp_path) == []


def test_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="holds something else"), writer(tmp_path / "d"):
        pass
    assert names_in(tmp_path / "d") == ["thesis.tex"]


def test_the_second_of_two_writers_keeps_the_first_ones_data(tmp_path: Path) -> None:
    with writer(tmp_path / "d") as slow:
        slow.write_day(1, day_table(1))
        with writer(tmp_path / "d") as fast:
            fast.write_day(1, day_table(1))
        written = (tmp_path / "d" / "manifest.json").stat().st_mtime_ns
    assert names_in(tmp_path) == ["d"]
    assert (tmp_path / "d" / "manifest.json").stat().st_mtime_ns == written


def test_another_data_set_written_meanwhile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds something else"), writer(tmp_path / "d") as slow:
        slow.write_day(1, day_table(1))
        with writer(tmp_path / "d", fingerprint="b" * 64) as fast:
            fast.write_day(1, day_table(1))
    assert names_in(tmp_path) == ["d"]


def test_missing_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"days \[2\] have no rows"), writer(tmp_path / "d", days=2) as out:
        out.write_day(1, day_table(1))


def test_day_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"days \[1\] have no rows"), writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1).slice(0, 0))


def test_schema_without_days_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none in the schema"), writer(tmp_path / "d", days=0):
        pass


def test_example_id_of_two_days_is_refused(tmp_path: Path) -> None:
    again = day_table(2, example_id=replaced(day_columns(2)["example_id"], 4, 100_003))
    with (
        pytest.raises(DataError, match=r"1 ids stand twice \(100003\)"),
        writer(tmp_path / "d", days=2) as out,
    ):
        out.write_day(1, day_table(1))
        out.write_day(2, again)


def test_pieces_out_of_order_are_refused(tmp_path: Path) -> None:
    table = day_table(1)
    with pytest.raises(DataError, match="not sorted"), writer(tmp_path / "d") as out:
        out.write_day(1, table.slice(5))
        out.write_day(1, table.slice(0, 5))


def test_day_in_two_halves_with_another_between_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="day 1: was already written"), writer(tmp_path / "d", days=2) as out:
        out.write_day(1, day_table(1).slice(0, 5))
        out.write_day(2, day_table(2))
        out.write_day(1, day_table(1).slice(5))


def test_row_after_the_days_end_is_refused(tmp_path: Path) -> None:
    late = day_table(1, timestamp=replaced(day_columns(1)["timestamp"], 9, 1000))
    with pytest.raises(
        DataError, match="got 1000 at example_id 100009, allowed: before the day's end_ms 1000"
    ):
        with writer(tmp_path / "d") as out:
            out.write_day(1, late)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"item_id": replaced(day_columns(1)["item_id"], 3, 7)},
            r"test, day 1: item_id: got id 7 at example_id 100003",
        ),
        ({"item_id": [str(i) for i in range(10)]}, "'item_id': got type string, allowed: int64"),
        ({"item_id": replaced(day_columns(1)["item_id"], 3, None)}, "'item_id': got 1 nulls, allowed: none"),
        ({"item_id": [0.5] * 10}, "'item_id': got type double"),
        ({"item_id": [[1]] * 10}, "'item_id': got type list"),
        ({"label_click": [300] * 10}, "'label_click': values do not fit int8"),
        ({"label_click": [2] * 10}, "label_click: got 2 at example_id 100000"),
        ({"price": [None] * 10}, "'price': got type null"),
        ({"price": [float("nan")] * 10}, "price: got nan at example_id 100000"),
        ({"prise": [0.0] * 10}, r"column 'prise' is not in the schema, .*Did you mean 'price'"),
        ({"example_id": [1] * 10}, "example_id: got 1 twice"),
    ],
)
def test_table_that_breaks_the_contract_is_refused(tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(DataError, match=message), writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1, **changed))
    assert names_in(tmp_path) == []


def test_missing_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'domain' is missing"), writer(tmp_path / "d") as out:
        out.write_day(1, day_table(1).drop_columns(["domain"]))


def test_day_outside_the_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="day 2: allowed: days 1 to 1"), writer(tmp_path / "d") as out:
        out.write_day(2, day_table(2))


@pytest.mark.parametrize(
    ("item", "domain", "label", "message"),
    [
        (7, 0, 0, "item: got 7 to 7, allowed: 0 to 6"),
        (0, 2, 0, "domain: got 2 to 2, allowed: 0 to 1"),
        (0, 0, 2, "labels: got 2 to 2, allowed: -1 to 1"),
    ],
)
def test_extra_events_out_of_range_are_refused(
    tmp_path: Path, item: int, domain: int, label: int, message: str
) -> None:
    with pytest.raises(DataError, match=message), writer(tmp_path / "d") as out:
        one = np.array([0])
        out.add_events(
            one, one, np.array([item]), np.array([domain]), np.full((1, 2), label), np.zeros((1, 2))
        )
