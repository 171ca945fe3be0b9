"""What the day stream refuses, and how it names it: every breach of the data contract, every damaged file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distill.dataset import DataSet
from distill.errors import DataError
from distill.stream import DayStream
from tests.distill.prepared_data import day_columns, replaced, stream, tamper, write_small


@pytest.fixture
def own(tmp_path: Path) -> DataSet:
    """Two days of 10 rows, to be damaged."""
    return write_small(tmp_path / "small")


def columns() -> dict[str, list]:
    return day_columns(1)


BROKEN: dict[str, tuple[Callable[[], dict[str, list | None]], str]] = {
    "id beyond its table": (
        lambda: {"item_id": replaced(columns()["item_id"], 3, 7)},
        r"day=0001/part-0\.parquet, row group 0: item_id: got id 7 at example_id 100003: .*0 to 6 \(size 7\)",
    ),
    "negative id": (
        lambda: {"item_id": replaced(columns()["item_id"], 5, -1)},
        "item_id: got id -1 at example_id 100005",
    ),
    "multi-valued id beyond its table": (
        lambda: {"tags": replaced(columns()["tags"], 4, [1, 9])},
        r"tags: got id 9 at example_id 100004: .*\(size 4\)",
    ),
    "NaN": (
        lambda: {"price": replaced(columns()["price"], 6, float("nan"))},
        "price: got nan at example_id 100006, allowed: finite",
    ),
    "infinity": (
        lambda: {"length": replaced(columns()["length"], 0, float("-inf"))},
        "length: got -inf at example_id 100000",
    ),
    "label 2": (
        lambda: {"label_click": replaced(columns()["label_click"], 8, 2)},
        "label_click: got 2 at example_id 100008, allowed: 0, 1 or null",
    ),
    "label -1": (
        lambda: {"label_order": replaced(columns()["label_order"], 2, -1)},
        "label_order: got -1 at example_id 100002",
    ),
    "unknown surface": (
        lambda: {"domain": replaced(columns()["domain"], 1, 2)},
        "domain: got id 2 at example_id 100001: unknown surface, allowed: .*feed, reels",
    ),
    "unsorted rows": (
        lambda: {"timestamp": replaced(columns()["timestamp"], 5, 399)},
        "not sorted by .*: 100005 at 399 follows 100004 at 400",
    ),
    "unsorted ids at one time": (
        lambda: {
            "timestamp": replaced(columns()["timestamp"], 1, 0),
            "example_id": [100_001, 100_000, *columns()["example_id"][2:]],
        },
        "not sorted by .*: 100000 at 0 follows 100001 at 0",
    ),
    "duplicate id": (
        lambda: {"example_id": replaced(columns()["example_id"], 7, 100_002)},
        "example_id: got 100002 twice",
    ),
    "missing column": (lambda: {"item_id": None}, r"part-0\.parquet: column 'item_id' is missing"),
    "missing label": (lambda: {"label_order": None}, "column 'label_order' is missing"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_contract_is_named(own: DataSet, case: str) -> None:
    change, message = BROKEN[case]
    tamper(own, 1, change())
    with pytest.raises(DataError, match=message):
        list(stream(own))


def test_wrong_type_is_named(own: DataSet) -> None:
    (path,) = own.parts(1)
    table = pq.read_table(path)
    place = table.column_names.index("item_id")
    pq.write_table(table.set_column(place, "item_id", table["item_id"].cast("double")), path)
    with pytest.raises(
        DataError, match=r"part-0\.parquet: column 'item_id': got type double, allowed: int64"
    ):
        stream(own)


def test_order_is_checked_across_row_groups(own: DataSet) -> None:
    tamper(own, 1, {"timestamp": replaced(columns()["timestamp"], 5, 399)}, row_group=5)
    with pytest.raises(
        DataError, match=r"row group 1: rows are not sorted .*\(399, 100005\) follows \(400, 100004\)"
    ):
        list(stream(own))


def test_checks_can_be_left_out(own: DataSet) -> None:
    tamper(own, 1, {"item_id": replaced(columns()["item_id"], 3, 7)})
    assert len(list(stream(own, validate=False))) == 3


def test_columns_that_are_not_asked_for_are_not_needed(own: DataSet) -> None:
    tamper(own, 1, {"price": None, "tags": None})
    batch = next(iter(DayStream(own, 1, 4, ("item_id",), ("length",))))
    assert batch.sparse.keys() == ["item_id"]


def test_truncated_file_is_named(own: DataSet) -> None:
    (path,) = own.parts(1)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"day=0001/part-0\.parquet: not readable as Parquet"):
        stream(own)


def test_flipped_byte_is_found_by_its_checksum(own: DataSet) -> None:
    (path,) = own.parts(1)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"day=0001/part-0\.parquet: not readable as Parquet"):
        list(stream(own))


def test_file_that_is_no_parquet_is_named(own: DataSet) -> None:
    (path,) = own.parts(1)
    path.write_text("not Parquet")
    with pytest.raises(DataError, match=r"part-0\.parquet: not readable as Parquet"):
        stream(own)


def test_missing_rows_are_noticed(own: DataSet) -> None:
    (path,) = own.parts(1)
    pq.write_table(pq.read_table(path).slice(0, 6), path)
    with pytest.raises(DataError, match="got 6 rows, allowed: 10 by the manifest"):
        stream(own)


def test_missing_file_of_a_day_is_named(own: DataSet) -> None:
    own.parts(2)[0].unlink()
    with pytest.raises(DataError, match=r"day 2 \(2026-01-02\) is missing"):
        stream(own, day=2)


@pytest.mark.parametrize("day", [0, 3, -1])
def test_day_outside_the_data_is_refused(own: DataSet, day: int) -> None:
    with pytest.raises(DataError, match=f"day: got {day}, allowed: 1 to 2"):
        stream(own, day=day)


def test_unknown_names_are_refused_with_the_nearest(own: DataSet) -> None:
    with pytest.raises(DataError, match=r"sparse feature: got 'item', .*Did you mean 'item_id'"):
        DayStream(own, 1, 4, ("item",))
    with pytest.raises(DataError, match=r"dense feature: got 'prize', .*Did you mean 'price'"):
        DayStream(own, 1, 4, ("item_id",), ("prize",))
    with pytest.raises(DataError, match=r"domain: got 'reel', .*Did you mean 'reels'"):
        stream(own, domains=["reel"])
