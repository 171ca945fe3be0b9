"""Ids matched by value: any order, values that the other side lacks, values that cannot be matched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from adapters.vocabulary import match_rows, read_match
from distill.errors import UserError
from distill.schema import FeatureSchema, SparseFeature, Task
from distill.vocabulary import TEXT, Vocabulary, save_all

TASKS = {"click": Task("click")}
SCHEMA = FeatureSchema(
    "x", ("feed",), ("feed",), (), TASKS, {"item": SparseFeature("item", 2)}, item_feature="item"
)


def test_rows_are_found_by_value() -> None:
    teacher, student = np.array([30, 10, 20, 99]), np.array([10, 20, 30, 40, -5, 100])
    assert match_rows(teacher, student).tolist() == [1, 2, 0, -1, -1, -1]


def test_many_rows_in_another_order() -> None:
    random = np.random.default_rng(0)
    teacher, student = random.permutation(5000)[:3000], random.permutation(5000)[:2000]
    place = {int(value): row for row, value in enumerate(teacher)}
    assert match_rows(teacher, student).tolist() == [place.get(int(value), -1) for value in student]


def test_texts_of_different_lengths() -> None:
    teacher, student = np.array(["cat", "ox"]), np.array(["oxen", "ox", "ca", "cat"])
    assert match_rows(teacher, student).tolist() == [-1, 1, -1, 0]


def test_signed_and_unsigned_numbers() -> None:
    assert match_rows(np.array([7, 3], np.uint32), np.array([3, -7], np.int64)).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        ([1, 2, 1], [1, 2], "feature.teacher: got 1 twice, allowed: every value once"),
        ([1, 2], [5, 5, 1], "feature.student: got 5 twice, allowed: every value once"),
        ([1, 2], ["1", "2"], "feature: got int64 of the teacher and <U1 of the student"),
    ],
)
def test_what_cannot_be_matched(teacher: list[Any], student: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_rows(np.array(teacher), np.array(student), "feature")


def saved(folder: Path, name: str, values: Any) -> str:
    np.save(folder / f"{name}.npy", values)
    return str(folder / f"{name}.npy")


def test_files(tmp_path: Path) -> None:
    teacher = saved(tmp_path, "teacher", np.array([8, 6, 7], np.int32))
    student = saved(tmp_path, "student", np.array([6, 5]))
    match = read_match(teacher, student, SCHEMA, "item")
    assert match.rows.tolist() == [1, -1] and match.teacher_rows == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([6, 5, 4]), "item.student: got 3 values in .*, allowed: 2, one for each row"),
        (np.array([0.5, 1.0]), "item.student: got float64 in .*, allowed: whole numbers, or texts"),
        (np.array([[1], [2]]), r"item.student: got \[2, 1\] in .*, allowed: \[rows\]"),
        (np.zeros(0, np.int64), r"item.student: got \[0\] in"),
        (np.array(["a", None], object), "item.student: got .*, which is no plain .npy file"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, values: Any, message: str) -> None:
    teacher = saved(tmp_path, "teacher", np.array([1, 2]))
    np.save(tmp_path / "student.npy", values, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        read_match(teacher, str(tmp_path / "student.npy"), SCHEMA, "item")


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "teacher.npy").write_text("6\n5\n")
    with pytest.raises(UserError, match="item.teacher: got .*, which is no plain .npy file"):
        read_match(str(tmp_path / "teacher.npy"), str(tmp_path / "teacher.npy"), SCHEMA, "item")


def test_several_arrays_in_one_file(tmp_path: Path) -> None:
    with (tmp_path / "teacher.npy").open("wb") as file:
        np.savez(file, a=np.array([1]), b=np.array([2]))
    with pytest.raises(UserError, match="item.teacher: got several arrays in"):
        read_match(str(tmp_path / "teacher.npy"), str(tmp_path / "teacher.npy"), SCHEMA, "item")


# Of prepared data sets


def data_set(folder: Path, values: list[str | None], size: int, ids: str = "vocabulary") -> FeatureSchema:
    """Schema and vocabulary of one, read back."""
    item = SparseFeature("item", size, ids=ids, unknown=values[0] is None)
    folder.mkdir()
    FeatureSchema("x", ("feed",), ("feed",), (), TASKS, {"item": item}, item_feature="item").save(
        folder / "schema.yaml"
    )
    found = Vocabulary(item, pa.array(values, TEXT), np.arange(len(values)))
    save_all(folder / "vocabulary", {"item": found})
    return FeatureSchema.load(folder / "schema.yaml")


def test_vocabularies_of_two_data_sets_are_matched(tmp_path: Path) -> None:
    """Unknown values meet unknown ones; rows to spare meet nothing."""
    data_set(tmp_path / "teacher", [None, "a", "b"], 5)
    schema = data_set(tmp_path / "student", [None, "b", "new", "a"], 6)
    match = read_match(str(tmp_path / "teacher"), None, schema, "item")
    assert match.rows.tolist() == [0, 2, -1, 1, -1, -1] and match.teacher_rows == 5


def test_a_file_stands_for_a_data_set_without_a_row_for_unknown_values(tmp_path: Path) -> None:
    schema = data_set(tmp_path / "student", ["b", "new", "a"], 3)
    match = read_match(saved(tmp_path, "teacher", np.array(["a", "b"])), None, schema, "item")
    assert match.rows.tolist() == [1, -1, 0]


def test_a_data_set_without_the_vocabulary_is_refused(tmp_path: Path) -> None:
    schema = data_set(tmp_path / "student", ["b"], 1, ids="hash")
    with pytest.raises(UserError, match=r"item.student: got .*student, which has no vocabulary of 'item'"):
        read_match(saved(tmp_path, "teacher", np.array(["a"])), None, schema, "item")
