"""Raw values become rows: by vocabulary, by hash, with and without a row for unknown values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill import vocabulary
from distill.errors import DataError
from distill.schema import FeatureSchema, SparseFeature
from distill.vocabulary import TEXT, WHOLE, Vocabulary, fnv1a, load

OPEN = SparseFeature("item", 8, ids="vocabulary")
CLOSED = SparseFeature("item", 8, ids="vocabulary", unknown=False)
HASHED = SparseFeature("item", 11, ids="hash")


def texts(feature: SparseFeature = OPEN) -> Vocabulary:
    values = [None] * feature.unknown + ["b", "a", "é"]
    return Vocabulary(feature, pa.array(values, TEXT), np.arange(len(values)))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_values_get_their_rows_and_unknown_ones_row_0(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array(["é", "b"], kind), pa.array([None, "new"], kind)])
    assert texts().rows_of(column, "x").to_pylist() == [3, 1, 0, 0]


def test_dictionaries_and_lists_are_read_too() -> None:
    assert texts().rows_of(pa.array(["a", "b", "a"]).dictionary_encode(), "x").to_pylist() == [2, 1, 2]
    column = pa.array([["q"], ["a"], [], ["b", None]]).slice(1)
    assert texts().rows_of(column, "x").to_pylist() == [[2], [], [1, 0]]


def test_values_that_share_a_hash_keep_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "fnv1a", lambda values: np.full(len(values), 7, np.uint64))
    assert texts().rows_of(pa.array(["a", "new", "é", None, "b"]), "x").to_pylist() == [2, 0, 3, 0, 1]


def test_vocabulary_without_a_value_knows_none() -> None:
    empty = Vocabulary(OPEN, pa.nulls(1, TEXT), np.zeros(1, np.int64))
    assert empty.rows_of(pa.array(["a", None]), "x").to_pylist() == [0, 0]


def test_many_values_among_many() -> None:
    random = np.random.default_rng(0)
    values = random.permutation(5000)[:3000]
    numbers = Vocabulary(replace(OPEN, size=4000), pa.array([None, *values.tolist()], WHOLE), np.arange(3001))
    place = {int(value): row for row, value in enumerate(values, 1)}
    asked = random.integers(0, 5000, 4000)
    assert numbers.rows_of(pa.array(asked), "x").to_pylist() == [place.get(int(value), 0) for value in asked]


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int64(), pa.uint64()])
def test_whole_numbers_of_any_width_are_one_kind(kind: pa.DataType) -> None:
    numbers = Vocabulary(OPEN, pa.array([None, 200, -5], WHOLE), np.arange(3))
    assert numbers.rows_of(pa.array([200, 7], kind), "x").to_pylist() == [1, 0]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.0]), "f: got double, allowed: texts. Convert"),
        (pa.array([1]), "f: got int64, allowed: texts. Convert"),
        (pa.array([[1]]), "f: got int64, allowed: texts"),
        (pa.array([["a"], None]), "f: got 1 nulls, allowed: lists"),
        (pa.array([b"a"]), "f: got binary, allowed: texts"),
    ],
)
def test_other_columns_are_refused_by_name(column: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=message):
        texts().rows_of(column, "f")


def test_numbers_beyond_64_bits_are_refused() -> None:
    numbers = Vocabulary(OPEN, pa.array([None, 1], WHOLE), np.arange(2))
    with pytest.raises(DataError, match="f: values do not fit 64 bits"):
        numbers.rows_of(pa.array([2**63], pa.uint64()), "f")


@pytest.mark.parametrize("value", ["new", None])
def test_unknown_values_are_refused_where_no_row_stands_for_them(value: str | None) -> None:
    assert texts(CLOSED).rows_of(pa.array(["a", "b"]), "f").to_pylist() == [1, 0]
    with pytest.raises(DataError, match=rf"f: got {value!r} \(2 values\), allowed: .*unknown: false"):
        texts(CLOSED).rows_of(pa.array(["a", value, value]), "f")


def test_hash_is_the_published_one() -> None:
    """Test vectors of FNV's authors; 97 as a number is the byte of "a" and seven zeros."""
    assert [f"{x:016x}" for x in fnv1a(pa.array(["", "a", "foobar"], TEXT)).tolist()] == [
        "cbf29ce484222325",
        "af63dc4c8601ec8c",
        "85944171f73967e8",
    ]
    number, text = fnv1a(pa.array([97], WHOLE)), fnv1a(pa.array(["a" + "\0" * 7], TEXT))
    assert number.tolist() == text.tolist()


def by_hand(value: Any) -> int:
    """The hash as its authors wrote it, byte by byte."""
    state = 0xCBF29CE484222325
    content = value.encode() if isinstance(value, str) else value.to_bytes(8, "little", signed=True)
    for byte in content:
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


@pytest.mark.parametrize("values", [[-1, 0, 2**62, 12345], ["", "ü", "a longer text", "日本", "x"]])
def test_rows_by_hash_leave_row_0_to_unknown_ones(values: list[Any]) -> None:
    array = pa.array(values).slice(1)
    found = Vocabulary(HASHED, pa.nulls(1, WHOLE if isinstance(values[0], int) else TEXT), np.zeros(1))
    rows = found.rows_of(pa.concat_arrays([array, pa.nulls(1, array.type)]), "x").to_pylist()
    assert rows == [1 + by_hand(value) % 10 for value in values[1:]] + [0]


def test_hash_without_a_row_for_unknown_values() -> None:
    feature = SparseFeature("item", 11, ids="hash", unknown=False)
    found = Vocabulary(feature, pa.array(["a"], TEXT), np.array([by_hand("a") % 11]))
    assert found.rows_of(pa.array(["b"]), "x").to_pylist() == [by_hand("b") % 11]
    with pytest.raises(DataError, match=r"x: got None \(1 values\)"):
        found.rows_of(pa.array(["b", None]), "x")


def test_hash_spreads_over_its_rows() -> None:
    """Of 1000 rows, 1000 random draws leave 36.8 % empty, with a deviation of 1 %."""
    for values in (pa.array(range(1000), WHOLE), pa.array([f"item_{n}" for n in range(1000)], TEXT)):
        assert 580 < len(np.unique(fnv1a(values) % np.uint64(1000))) < 690


def test_saved_and_loaded(tmp_path: Path) -> None:
    texts().save(tmp_path / "item.parquet")
    loaded = load(tmp_path / "item.parquet", OPEN)
    assert loaded.values.equals(texts().values) and loaded.rows.tolist() == [0, 1, 2, 3]
    assert loaded.values_of(pa.array([[2, 0], [3]]), "x").to_pylist() == [["a", None], ["é"]]


@pytest.mark.parametrize(
    ("columns", "feature", "message"),
    [
        ({"value": ["a"]}, CLOSED, "got columns value, allowed: value and row"),
        ({"value": ["a", "b"], "row": [1, 0]}, CLOSED, "row: allowed: 0, 1, 2"),
        ({"value": ["a", "a"], "row": [0, 1]}, CLOSED, "a value stands twice"),
        ({"value": ["a", "b"], "row": [0, 1]}, OPEN, "got 0 nulls, allowed: null in row 0"),
        ({"value": [None, "b"], "row": [0, 1]}, CLOSED, "got 1 nulls, allowed: no null"),
        ({"value": list("abcdefghi"), "row": list(range(9))}, CLOSED, "got 9 values, allowed: 1 to 8"),
        ({"value": [0.5], "row": [0]}, CLOSED, "value: got double, allowed: whole numbers or texts"),
    ],
)
def test_files_of_another_form_are_refused(
    tmp_path: Path, columns: dict[str, Any], feature: SparseFeature, message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "item.parquet")
    with pytest.raises(DataError, match=f"item.parquet: .*{message}|item.parquet: {message}"):
        load(tmp_path / "item.parquet", feature)


# In schema.yaml


def schema(**user: Any) -> FeatureSchema:
    sparse = {"user_id": {"group": "user"} | user, "item_id": {"size": 5, "group": "item"}}
    return FeatureSchema.from_mapping(
        {"name": "x", "domains": ["feed"], "tasks": {"click": {}}, "sparse": sparse}
    )


def test_schema_says_how_and_is_saved_as_it_was(tmp_path: Path) -> None:
    wanted = schema(ids="vocabulary", size=9, unknown=False)
    wanted.save(tmp_path / "schema.yaml")
    assert FeatureSchema.load(tmp_path / "schema.yaml") == wanted
    assert "ids" not in (tmp_path / "schema.yaml").read_text().split("item_id")[1]


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({}, "sparse.user_id: key 'size' is missing"),
        ({"ids": "hash"}, "sparse.user_id: key 'size' is missing"),
        ({"ids": "hash", "size": 9}, "sparse.user_id.ids: got 'hash', allowed: rows or vocabulary. Users"),
        ({"ids": "map", "size": 9}, "sparse.user_id.ids: got 'map', allowed: rows, vocabulary, hash"),
        ({"size": 9, "unknown": True}, "sparse.user_id.unknown: got True, allowed: with ids"),
        ({"ids": "vocabulary", "unknown": "no"}, "sparse.user_id.unknown: got 'no', allowed: true or false"),
        ({"ids": "vocabulary", "size": -1}, "sparse.user_id.size: got -1, allowed: an integer >= 0"),
    ],
)
def test_schema_that_makes_no_sense_is_refused(user: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        schema(**user)


def test_hash_needs_a_row_beside_that_of_unknown_values() -> None:
    with pytest.raises(DataError, match=r"size: got 1, allowed: an integer >= 2"):
        FeatureSchema("x", ("f",), ("f",), (), {}, {"item_id": SparseFeature("item_id", 1, ids="hash")})
