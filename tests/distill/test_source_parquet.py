"""Bring your own data: a folder of days with a schema.yaml, what it may look like and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from distill.config import DataConfig
from distill.dataset import DataSet
from distill.errors import DataError
from distill.history import EventStore
from distill.progress import NoProgress
from distill.sources import writer as writer_module
from distill.sources.config import ParquetConfig
from distill.sources.fingerprint import fingerprint
from distill.sources.parquet import prepare
from distill.stream import DayStream

HOUR = 3_600_000
NIGHT = 1_767_225_600_000  # 1 January 2026, 0:00 UTC
SCHEMA: dict[str, Any] = {
    "name": "my_shop",
    "domains": ["feed", "search"],
    "tasks": {"click": {}, "order": {"window_ms": HOUR}},
    "sparse": {
        "user_id": {"size": 50, "group": "user"},
        "item_id": {"size": 80, "group": "item"},
        "tags": {"size": 5, "group": "item", "multi": True},
    },
    "dense": ["log_price"],
}


def day_columns(day: int) -> dict[str, Any]:
    """Four rows of a day, one an hour from noon."""
    return {
        "example_id": [day * 10 + r for r in range(4)],
        "user_id": [r % 2 for r in range(4)],
        "timestamp": [NIGHT + ((day - 1) * 24 + 12 + r) * HOUR for r in range(4)],
        "domain": ["feed", "search", "feed", "search"],
        "item_id": [day * 10 + r for r in range(4)],
        "tags": [[1, 2], [], [4], [0]],
        "log_price": [0.5, 1.0, 1.5, 2.0],
        "label_click": [1, 0, 1, None],
        "label_order": [1, 0, 0, None],
        "shelf": ["a", "b", "c", "d"],  # not in the schema: never read
    }


def write_day(root: Path, day: int, name: str = "part.parquet", **changed: Any) -> Path:
    path = root / f"date=2026-01-{day:02d}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(day_columns(day) | changed), path, row_group_size=3)
    return path


def write_example(root: Path, **schema: Any) -> Path:
    """The worked example: two days and a schema without `days`."""
    for day in (1, 2):
        write_day(root, day)
    (root / "schema.yaml").write_text(yaml.safe_dump(SCHEMA | schema))
    return root


def make(root: Path) -> DataSet:
    folder = root.parent / "prepared"
    prepare(ParquetConfig(), DataConfig(source="parquet", root=str(root)), folder, NoProgress())
    return DataSet.open(folder)


def ids(data: DataSet, day: int) -> list[int]:
    return pq.read_table(data.parts(day)[0])["example_id"].to_pylist()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_example(tmp_path / "my_data")


def test_example_becomes_batches(root: Path) -> None:
    data = make(root)
    batch = next(iter(DayStream(data, 2, 10, ["item_id", "tags"], ["log_price"], history_length=3)))
    assert batch.example_id.tolist() == [20, 21, 22, 23]
    assert batch.domain.tolist() == [0, 1, 0, 1]
    assert batch.sparse["tags"].values().tolist() == [1, 2, 4, 0]
    assert batch.dense[:, 0].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert batch.history is not None
    assert batch.history.item.tolist() == [10, 12, 11, 13, 10, 12, 20, 11, 13, 21]


def test_days_come_from_the_folders_and_end_after_their_last_row(root: Path) -> None:
    schema = make(root).schema
    assert [(day.date, day.end_ms) for day in schema.days] == [
        ("2026-01-01", NIGHT + 15 * HOUR + 1),
        ("2026-01-02", NIGHT + 39 * HOUR + 1),
    ]
    assert schema.verticals == ("feed", "search")


def test_open_windows_are_masked(root: Path) -> None:
    # Day 1 ends with its last row at 15:00, so the orders of 14:00 are matured and those after are not.
    assert make(root).outcomes(1).matured.tolist() == [
        [True, True],
        [True, True],
        [True, True],
        [False, False],
    ]
    assert make_again(root, label_order=[1, 0, 0, 1]).outcomes(1).matured[3].tolist() == [False, False]


def make_again(root: Path, **changed: Any) -> DataSet:
    other = write_example(root.parent / "again" / "my_data")
    write_day(other, 1, **changed)
    return make(other)


def test_days_of_the_schema_say_when_a_day_ends(tmp_path: Path) -> None:
    days = [
        {"date": "2026-01-01", "end_ms": NIGHT + 24 * HOUR},
        {"date": "2026-01-02", "end_ms": NIGHT + 48 * HOUR},
    ]
    assert make(write_example(tmp_path / "d", days=days)).schema.days[0].end_ms == NIGHT + 24 * HOUR


def test_unquoted_dates_are_dates_too(tmp_path: Path) -> None:
    root = write_example(tmp_path / "d")
    days = "days: [{date: 2026-01-01, end_ms: 1767312000000}, {date: 2026-01-02, end_ms: 1767398400000}]\n"
    with (root / "schema.yaml").open("a") as file:
        file.write(days)
    assert [day.date for day in make(root).schema.days] == ["2026-01-01", "2026-01-02"]


def test_plain_date_folders_will_do(root: Path) -> None:
    (root / "date=2026-01-02").rename(root / "2026-01-02")
    assert make(root).rows_per_day == {1: 4, 2: 4}


def test_other_folders_are_left_alone(root: Path) -> None:
    (root / "notes").mkdir()
    (root / "_SUCCESS").write_text("")
    assert make(root).rows == 8


def test_unsorted_rows_and_files_are_sorted(root: Path) -> None:
    columns = day_columns(1)
    write_day(root, 1, **{name: values[::-1] for name, values in columns.items()})
    write_day(root, 1, "another.parquet", example_id=[1, 2, 3, 4])
    data = make(root)
    assert ids(data, 1) == [1, 10, 2, 11, 3, 12, 4, 13]
    assert data.outcomes(1).labels[:, 0].tolist() == [1, 1, 0, 0, 1, 1, -1, -1]


def test_sorted_files_are_read_by_row_group(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    original = writer_module.PreparedWriter.write_day

    def spy(self: writer_module.PreparedWriter, day: int, table: pa.Table) -> None:
        pieces.append(table.num_rows)
        original(self, day, table)

    monkeypatch.setattr(writer_module.PreparedWriter, "write_day", spy)
    make(root)
    assert pieces == [3, 1, 3, 1]


def test_surfaces_by_index_will_do(root: Path) -> None:
    write_day(root, 1, domain=[1, 1, 0, 0])
    assert make(root).outcomes(1).domain.tolist() == [1, 1, 0, 0]


def test_maturity_column_is_used(root: Path) -> None:
    write_day(root, 1, matures_click=[NIGHT + 24 * HOUR, None, None, None])
    assert make(root).outcomes(1).matured[:, 0].tolist() == [False, True, True, False]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_floats_of_whole_numbers_with_missing_ones_will_do(root: Path, missing: float | None) -> None:
    """As pandas has them."""
    known = float(NIGHT + 24 * HOUR)
    write_day(root, 1, label_click=[1.0, 0.0, 1.0, missing], matures_click=[known, missing, missing, missing])
    outcomes = make(root).outcomes(1)
    assert outcomes.labels[:, 0].tolist() == [1, 0, 1, -1]
    assert outcomes.matured[:, 0].tolist() == [False, True, True, False]


def test_extra_events_are_history(root: Path) -> None:
    events = {
        "user_id": [1, 1],
        "timestamp": [NIGHT - 2 * HOUR, NIGHT - HOUR],
        "item_id": [70, 71],
        "domain": ["search", "feed"],
        "label_click": [1, None],
    }
    pq.write_table(pa.table(events), root / "events.parquet")
    store = EventStore(make(root).events_folder)
    past = store.last(torch.tensor([1]), torch.tensor([NIGHT + 14 * HOUR]), limit=5)
    assert past.item.tolist() == [70, 71, 11]
    assert past.domain.tolist() == [1, 0, 1]
    assert past.labels.tolist() == [[1, -1], [-1, -1], [0, 0]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"item_id": [10, 11, 80, 13]}, r"item_id: got id 80 at example_id 12: .*0 to 79"),
        ({"item_id": ["a", "b", "c", "d"]}, r"part\.parquet: item_id: got text, .*Set `ids: vocabulary`"),
        ({"tags": [["new"], [], [], []]}, "tags: got text"),
        ({"domain": ["feed", "serch", "feed", "feed"]}, "unknown surface 'serch', .*Did you mean 'search'"),
        ({"domain": [0, 1, 2, 0]}, "domain: got id 2 at example_id 12: unknown surface"),
        ({"log_price": [0.0, float("nan"), 0.0, 0.0]}, "log_price: got nan at example_id 11"),
        ({"log_price": [0.0, 1e300, 0.0, 0.0]}, "log_price: got inf at example_id 11"),
        ({"label_click": [0, 1, 2, 0]}, "label_click: got 2 at example_id 12"),
        ({"label_click": [0.0, 0.5, 1.0, None]}, "'label_click': values do not fit int8: .*0.5"),
        ({"user_id": [0, None, 1, 1]}, "'user_id': got 1 nulls"),
        ({"example_id": [10, 11, 11, 13]}, "example_id: got 11 twice"),
        ({"example_id": [20, 11, 12, 13]}, r"1 ids stand twice \(20\)"),
        ({"label_clik": [0] * 4}, r"column 'label_clik': allowed: .*Did you mean 'label_click'"),
    ],
)
def test_broken_contract_is_named(root: Path, changed: dict[str, Any], message: str) -> None:
    write_day(root, 1, **changed)
    with pytest.raises(DataError, match=message):
        make(root)


def test_missing_column_names_the_file(root: Path) -> None:
    path = write_day(root, 2)
    pq.write_table(pq.read_table(path).drop_columns(["label_order"]), path)
    with pytest.raises(DataError, match=r"date=2026-01-02/part\.parquet: column 'label_order' is missing"):
        make(root)


def test_truncated_file_is_named(root: Path) -> None:
    path = write_day(root, 2)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"date=2026-01-02/part\.parquet: not readable as Parquet"):
        make(root)


def test_row_after_the_listed_end_of_its_day_is_refused(tmp_path: Path) -> None:
    days = [
        {"date": "2026-01-01", "end_ms": NIGHT + 14 * HOUR},
        {"date": "2026-01-02", "end_ms": NIGHT + 48 * HOUR},
    ]
    with pytest.raises(DataError, match="allowed: before the day's end_ms"):
        make(write_example(tmp_path / "d", days=days))


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (["2026-01-01", "2026-01-02", "2026-01-03"], "day 2026-01-03 has no folder"),
        (["2026-01-01"], "day 2026-01-02 is not among the schema's days"),
    ],
)
def test_days_and_folders_must_agree(tmp_path: Path, dates: list[str], message: str) -> None:
    days = [{"date": date, "end_ms": NIGHT + 24 * HOUR * (n + 1)} for n, date in enumerate(dates)]
    with pytest.raises(DataError, match=message):
        make(write_example(tmp_path / "d", days=days))


def test_empty_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    with pytest.raises(DataError, match="the data set is empty"):
        make(tmp_path)


def test_day_folder_without_files_is_refused(root: Path) -> None:
    (root / "date=2026-01-03").mkdir()
    with pytest.raises(DataError, match=r"date=2026-01-03: holds no \.parquet file"):
        make(root)


def test_two_folders_of_a_day_are_refused(root: Path) -> None:
    (root / "2026-01-01").mkdir()
    pq.write_table(pa.table(day_columns(1)), root / "2026-01-01" / "part.parquet")
    with pytest.raises(DataError, match="day 2026-01-01 has two folders"):
        make(root)


def test_folder_without_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"A data set needs a schema\.yaml"):
        make(tmp_path)


def test_events_with_text_items_are_refused(root: Path) -> None:
    events = {"user_id": [1], "timestamp": [0], "item_id": ["a"], "domain": [0]}
    pq.write_table(pa.table(events), root / "events.parquet")
    with pytest.raises(DataError, match=r"events\.parquet: item_id: got string"):
        make(root)


def test_nothing_is_left_of_a_refused_data_set(root: Path) -> None:
    write_day(root, 2, item_id=[99] * 4)
    with pytest.raises(DataError):
        make(root)
    assert [path.name for path in root.parent.iterdir()] == [root.name]


# Content vectors


CONTENT = {"image": {"width": 2}}


def write_vectors(root: Path, name: str = "image", **columns: Any) -> Path:
    """Vectors of items 10 to 13 and 20 in row groups of two; the other items have none."""
    (root / "content").mkdir(exist_ok=True)
    items = [20, 10, 11, 13, 12]
    vectors = pa.array([[item / 2, -1.0] for item in items], pa.list_(pa.float32()))
    path = root / "content" / f"{name}.parquet"
    pq.write_table(pa.table({"item_id": items, "vector": vectors} | columns), path, row_group_size=2)
    return path


@pytest.fixture
def with_content(tmp_path: Path) -> Path:
    root = write_example(tmp_path / "my_data", content=CONTENT)
    write_vectors(root)
    return root


def test_vectors_reach_the_batch(with_content: Path) -> None:
    stream = DayStream(make(with_content), 2, 10, ["item_id"], content=["image"], history_length=1)
    image = next(iter(stream)).content["image"]
    assert image.item.tolist() == [[10.0, -1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]  # items 20 to 23
    assert image.item_known.tolist() == [True, False, False, False]
    assert image.events is not None
    assert image.events[:, 0].tolist() == [6.0, 6.5, 10.0, 0.0]  # items 12, 13, 20, 21


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64(), 2), pa.large_list(pa.float16()), pa.list_(pa.int8())]
)
def test_lists_of_any_numbers_will_do(with_content: Path, kind: pa.DataType) -> None:
    write_vectors(with_content, vector=pa.array([[item, 3] for item in range(5)], kind))
    image = next(iter(DayStream(make(with_content), 1, 10, ["item_id"], content=["image"]))).content["image"]
    assert image.item.tolist() == [[1.0, 3.0], [2.0, 3.0], [4.0, 3.0], [3.0, 3.0]]


def test_other_vectors_are_another_data_set(with_content: Path) -> None:
    data = DataConfig(source="parquet", root=str(with_content))
    before = fingerprint("parquet", ParquetConfig(), data)
    write_vectors(with_content, item_id=[20, 10, 11, 13, 14])
    assert fingerprint("parquet", ParquetConfig(), data) != before


def test_files_of_modalities_that_the_schema_does_not_name_are_not_read(root: Path) -> None:
    write_vectors(root, vector=["no", "vectors", "at", "all", "!"])
    data = make(root)
    assert data.schema.content == {} and not data.content_folder.exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"vector": [[0.0, 1.0]] * 4 + [[0.0, 1.0, 2.0]]},
            r"content/image\.parquet: vector: got 3 numbers for item 12, allowed: 2 numbers, the width in the schema",
        ),
        (
            {"vector": pa.array([[1.0] * 3] * 5, pa.list_(pa.float32(), 3))},
            "got 3 numbers for item 20, allowed: 2",
        ),
        ({"vector": [[0.0, 1.0]] * 4 + [None]}, "vector: got null for item 12, .* Leave out the row"),
        ({"vector": [[0.0, 1.0]] * 3 + [[0.0, None]] * 2}, "vector: got a null in the vector of item 13"),
        ({"vector": [0.0] * 5}, "vector: got double, allowed: lists of 2 numbers"),
        ({"vector": [["a", "b"]] * 5}, "vector: got list<.*string>, allowed: lists of 2 numbers"),
        (
            {"vector": [[0.0, 1.0]] * 4 + [[0.0, float("nan")]]},
            r"parquet: content\.image: got nan in the vector of item_id 12, allowed: numbers from -65504",
        ),
        (
            {"item_id": [20, 10, 11, 13, 80]},
            r"content\.image: got item_id 80, outside its table, allowed: 0 to 79",
        ),
        ({"item_id": [20, 10, 11, 13, 20]}, r"content\.image: item_id: 1 items have two vectors \(20\)"),
        (
            {"item_id": ["a", "b", "c", "d", "e"]},
            r"image\.parquet: item_id: got string with 0 nulls, allowed: int",
        ),
        ({"item_id": [20, 10, 11, 13, None]}, r"image\.parquet: item_id: got int64 with 1 nulls"),
    ],
)
def test_bad_vectors_are_named(with_content: Path, columns: dict[str, Any], message: str) -> None:
    write_vectors(with_content, **columns)
    with pytest.raises(DataError, match=message):
        make(with_content)
    assert [path.name for path in with_content.parent.iterdir()] == [with_content.name]


def test_a_missing_file_of_vectors_is_named(with_content: Path) -> None:
    (with_content / "content" / "image.parquet").rename(with_content / "content" / "images.parquet")
    with pytest.raises(DataError, match=r"image\.parquet: no such file; .*'image'\. Did you mean 'images'"):
        make(with_content)


def test_missing_columns_of_vectors_are_named(with_content: Path) -> None:
    path = write_vectors(with_content)
    pq.write_table(pq.read_table(path).rename_columns(["item_id", "vectors"]), path)
    with pytest.raises(DataError, match=r"image\.parquet: column 'vector' is missing\..* 'vectors'"):
        make(with_content)


def test_a_file_without_vectors_is_refused(with_content: Path) -> None:
    path = write_vectors(with_content)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match=r"image\.parquet: holds no vectors"):
        make(with_content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ms: pa.array(ms, pa.timestamp("ms")), r"timestamp: got type timestamp\[ms\], allowed: int64"),
        (
            lambda ms: [time // 1000 for time in ms],
            "milliseconds since 1970, within a year of 2026-01-02 .*Multiply",
        ),
        (lambda ms: [time * 1000 for time in ms], "timestamp: got 1767355200000000 to .*divide microseconds"),
    ],
)
def test_times_in_another_unit_are_refused(
    root: Path, change: Callable[[list[int]], Any], message: str
) -> None:
    write_day(root, 2, timestamp=change(day_columns(2)["timestamp"]))
    with pytest.raises(DataError, match=message):
        make(root)


def test_a_categorical_surface_is_its_name(root: Path) -> None:
    for day in (1, 2):
        write_day(root, day, domain=pa.array(day_columns(day)["domain"]).dictionary_encode())
    batch = next(iter(DayStream(make(root), 2, 10, ["item_id"], ["log_price"])))
    assert batch.domain.tolist() == [0, 1, 0, 1]
