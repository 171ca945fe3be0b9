"""A folder of days with raw ids: which rows they get, as days are added, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from distill.config import DataConfig
from distill.content import ContentStore
from distill.dataset import DataSet
from distill.errors import DataError
from distill.history import EventStore
from distill.progress import NoProgress
from distill.sources import raw_ids
from distill.sources.config import ParquetConfig
from distill.sources.parquet import prepare, schema
from tests.distill.test_source_parquet import HOUR, NIGHT, SCHEMA, write_day

RAW: dict[str, Any] = {
    "user_id": {"ids": "vocabulary", "group": "user"},
    "item_id": {"ids": "vocabulary", "group": "item"},
    "tags": {"ids": "hash", "size": 4, "multi": True},
}
USERS = ["ann", "bo", "ann", "cy"]
ITEMS = [["i9", "i3", "i9", None], ["i3", "i7", "i1", "i7"]]
BIG = [2**40, -3, 2**40, 5]


def write_raw(root: Path, days: int = 2, sparse: dict[str, Any] = RAW, **changed: Any) -> Path:
    for day in range(1, days + 1):
        columns: dict[str, Any] = {
            "user_id": USERS,
            "item_id": ITEMS[day - 1],
            "tags": [["x", "y"], [], ["x"], [None]],
        }
        write_day(root, day, **(columns | changed))
    (root / "schema.yaml").write_text(yaml.safe_dump(SCHEMA | {"sparse": sparse}))
    return root


def make(root: Path, name: str = "prepared") -> DataSet:
    folder = root.parent / name
    prepare(ParquetConfig(), DataConfig(source="parquet", root=str(root)), folder, NoProgress())
    return DataSet.open(folder)


def columns(data: DataSet, day: int, *names: str) -> list[Any]:
    table = pq.read_table(data.parts(day)[0])
    return [table[name].to_pylist() for name in names]


def values(data: DataSet, name: str) -> list[Any]:
    return data.vocabularies()[name].values.to_pylist()


def test_texts_are_numbered_as_they_appear(tmp_path: Path) -> None:
    data = make(write_raw(tmp_path / "raw"))
    assert columns(data, 1, "user_id", "item_id") == [[1, 2, 1, 3], [1, 2, 1, 0]]
    assert columns(data, 2, "item_id") == [[2, 3, 4, 3]]
    assert values(data, "item_id") == [None, "i9", "i3", "i7", "i1"]
    assert {name: feature.size for name, feature in data.schema.sparse.items()} == {
        "user_id": 4,
        "item_id": 5,
        "tags": 4,
    }


def test_hashed_lists_have_one_row_a_value_on_every_day(tmp_path: Path) -> None:
    data = make(write_raw(tmp_path / "raw"))
    (first,), (second,) = columns(data, 1, "tags"), columns(data, 2, "tags")
    assert first == second and first[1] == [] and first[3] == [0]
    assert first[2] == first[0][:1] and set(first[0]) <= {1, 2, 3}


def test_a_further_day_leaves_old_rows_alone(tmp_path: Path) -> None:
    one, two = (make(write_raw(tmp_path / str(days) / "raw", days)) for days in (1, 2))
    assert values(two, "item_id")[:3] == values(one, "item_id")
    assert columns(one, 1, "user_id", "item_id", "tags") == columns(two, 1, "user_id", "item_id", "tags")


def test_rows_stay_when_the_first_day_is_dropped_and_its_vocabulary_kept(tmp_path: Path) -> None:
    both = make(write_raw(tmp_path / "raw"))
    root = write_raw(tmp_path / "later" / "raw")
    (root / "date=2026-01-01" / "part.parquet").unlink()
    (root / "date=2026-01-01").rmdir()
    (root / "vocabulary").mkdir()
    kept = (both.folder / "vocabulary" / "item_id.parquet").read_bytes()
    (root / "vocabulary" / "item_id.parquet").write_bytes(kept)
    later = make(root)
    assert columns(later, 1, "item_id") == columns(both, 2, "item_id")
    assert values(later, "item_id") == values(both, "item_id")


def test_whole_numbers_of_any_size(tmp_path: Path) -> None:
    data = make(write_raw(tmp_path / "raw", user_id=BIG))
    assert columns(data, 1, "user_id") == [[1, 2, 1, 3]] and values(data, "user_id") == [None, *BIG[:2], 5]


def test_events_from_before_come_first(tmp_path: Path) -> None:
    root = write_raw(tmp_path / "raw")
    events = {"user_id": ["bo", "bo"], "timestamp": [1, 2], "item_id": ["old", "i3"], "domain": [0, 1]}
    pq.write_table(pa.table(events), root / "events.parquet")
    data = make(root)
    assert values(data, "user_id") == [None, "bo", "ann", "cy"]
    assert values(data, "item_id") == [None, "old", "i3", "i9", "i7", "i1"]
    past = EventStore(data.events_folder).last(torch.tensor([1]), torch.tensor([NIGHT + 14 * HOUR]), limit=5)
    assert past.item.tolist() == [1, 2, 2]


def test_content_of_items_that_never_occur_is_left_out(tmp_path: Path) -> None:
    root = write_raw(tmp_path / "raw")
    (root / "schema.yaml").write_text(
        yaml.safe_dump(SCHEMA | {"sparse": RAW, "content": {"image": {"width": 2}}})
    )
    (root / "content").mkdir()
    vectors = {"item_id": ["i7", "never", "i9"], "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
    pq.write_table(pa.table(vectors), root / "content" / "image.parquet")
    data = make(root)
    found, known = ContentStore(data.content_folder, data.schema).look_up("image", torch.arange(5))
    assert known.tolist() == [False, True, False, True, False] and found[3].tolist() == [1.0, 2.0]


def test_many_values_are_brought_together_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = values(make(write_raw(tmp_path / "raw")), "item_id")
    monkeypatch.setattr(raw_ids, "_AT_ONCE", 1)
    assert values(make(tmp_path / "raw", "again"), "item_id") == expected


def test_names_can_be_checked_before_the_data_are_read(tmp_path: Path) -> None:
    config = DataConfig(source="parquet", root=str(write_raw(tmp_path / "raw")))
    assert schema(ParquetConfig(), config).sparse["item_id"].size == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"item_id": [1, 2, 3, 4]}, r"date=2026-01-02/part\.parquet: item_id: got int64, allowed: texts"),
        ({"user_id": [0.5] * 4}, r"part\.parquet: user_id: got double, allowed: texts. Convert"),
        ({"user_id": ["ann", None, "bo", "bo"]}, r"part\.parquet: user_id: got 1 nulls, allowed: a user in"),
        ({"tags": [["x"], None, [], []]}, r"part\.parquet: tags: got 1 nulls, allowed: lists"),
    ],
)
def test_other_columns_on_a_later_day_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    root = write_raw(tmp_path / "raw")
    columns: dict[str, Any] = {"user_id": USERS, "item_id": ITEMS[1], "tags": [["x"]] * 4}
    write_day(root, 2, **(columns | changed))
    with pytest.raises(DataError, match=message):
        make(root)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"size": 4}, r"item_id: got 4 values, allowed: 3 \(size 4, one of them for unknown values\). Raise"),
        ({"unknown": False}, r"item_id: got None \(1 values\), allowed: .*unknown: false"),
    ],
)
def test_values_without_a_row_are_refused(tmp_path: Path, item: dict[str, Any], message: str) -> None:
    sparse = RAW | {"item_id": RAW["item_id"] | item}
    with pytest.raises(DataError, match=message):
        make(write_raw(tmp_path / "raw", sparse=sparse))


def test_texts_of_a_user_who_is_no_feature_are_refused_with_advice(tmp_path: Path) -> None:
    sparse = {name: settings for name, settings in RAW.items() if name != "user_id"}
    with pytest.raises(DataError, match=r"user_id: got text, .*Set `ids: vocabulary` under sparse.user_id"):
        make(write_raw(tmp_path / "raw", sparse=sparse))


def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    data = make(write_raw(tmp_path / "raw"))
    path = data.folder / "vocabulary" / "item_id.parquet"
    content = bytearray(path.read_bytes())
    content[content.index(b"i9")] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"vocabulary/item_id\.parquet"):
        data.vocabularies()
