"""Ids matched by what they stand for: two tables whose rows are numbered differently.

Shape letters: R rows of the student's table, S rows of the teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.errors import UserError
from distill.schema import FeatureSchema
from distill.vocabulary import VOCABULARY, load


@dataclass(frozen=True)
class Match:
    """The rows of two tables of one feature, brought together by value.

    Attributes:
        rows: int64 [R], the teacher's row of each of the student's, -1 where it has no such value.
        teacher_rows: S.
    """

    rows: Tensor
    teacher_rows: int


@dataclass(frozen=True)
class RowValues:
    """What the rows of a table stand for.

    Attributes:
        values: integers or fixed-length texts [V].
        rows: int64 [V], whose values they are.
        size: rows of the table.
        unknown: row of unknown values, which has no value; None where there is none.
    """

    values: np.ndarray
    rows: np.ndarray
    size: int
    unknown: int | None = None


def read_match(teacher: str, student: str | None, schema: FeatureSchema, feature: str) -> Match:
    """Match the values of two tables.

    Args:
        teacher, student: .npy files with the value of each row, or folders of prepared data sets that have a vocabulary
            of the feature; None for the data set of `schema`.
        schema: the student's.
        feature: whose tables.

    Raises:
        UserError: values that cannot be read or matched, or not one for each row of the student's table.
    """
    name, size = f"sharing.vocabularies.{feature}", schema.sparse[feature].size
    theirs = _read(teacher, feature, f"{name}.teacher")
    own = _read(str(Path(schema.source).parent) if student is None else student, feature, f"{name}.student")
    if own.size != size:
        raise UserError(
            f"{name}.student: got {own.size} values in {student}, allowed: {size}, one for each row of the "
            "student's table"
        )
    places = match_rows(theirs.values, own.values, name)
    rows = np.full(size, -1)
    rows[own.rows] = np.where(places < 0, -1, theirs.rows[places])
    if own.unknown is not None and theirs.unknown is not None:
        rows[own.unknown] = theirs.unknown
    return Match(torch.from_numpy(rows), theirs.size)


def match_rows(teacher_values: np.ndarray, student_values: np.ndarray, name: str = "values") -> np.ndarray:
    """Where the teacher keeps each of the student's rows.

    Args:
        teacher_values: integers or fixed-length texts [S], the value of each row of the teacher's table.
        student_values: of the same kind [R].
        name: what messages call the two.

    Returns:
        int64 [R]: rows of the teacher's table, -1 where it has no such value.

    Raises:
        UserError: texts and numbers, or a value twice in one of them.
    """
    if (teacher_values.dtype.kind in "iu") != (student_values.dtype.kind in "iu"):
        raise UserError(
            f"{name}: got {teacher_values.dtype} of the teacher and {student_values.dtype} of the student, allowed: "
            "whole numbers in both, or texts in both"
        )
    order = np.argsort(teacher_values, kind="stable")
    ordered = teacher_values[order]
    _refuse_repeated(ordered, f"{name}.teacher")
    _refuse_repeated(np.sort(student_values), f"{name}.student")
    places = np.searchsorted(ordered, student_values).clip(max=len(ordered) - 1)
    return np.where(ordered[places] == student_values, order[places], -1)


def _read(place: str, feature: str, name: str) -> RowValues:
    if Path(place).is_dir():
        return _of_data_set(Path(place), feature, name)
    values = _of_file(place, name)
    return RowValues(values, np.arange(len(values)), len(values))


def _of_data_set(folder: Path, feature: str, name: str) -> RowValues:
    """The vocabulary of a feature of a prepared data set."""
    known = FeatureSchema.load(folder / "schema.yaml").sparse
    named = [one.name for one in known.values() if one.ids == "vocabulary"]
    if feature not in named:
        raise UserError(
            f"{name}: got {folder}, which has no vocabulary of '{feature}' (it has: {', '.join(named) or 'none'}), "
            "allowed: a prepared data set that has one, or a .npy file with the value of each row"
        )
    found = load(folder / VOCABULARY / f"{feature}.parquet", known[feature])
    unknown = int(known[feature].unknown)
    values = found.values.drop_null()
    # Texts by way of Python: numpy's texts of a fixed length are what can be sorted and searched.
    array = values.to_numpy() if found.kind == "integer" else np.array(values.to_pylist())
    return RowValues(array, found.rows[unknown:], known[feature].size, 0 if unknown else None)


def _of_file(file: str, name: str) -> np.ndarray:
    """The values in a .npy file, [rows], at least one; pickled objects are refused."""
    try:
        values = np.load(Path(file), mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{name}: got {file}, which is no plain .npy file ({error})") from error
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not len(values):
        shape = list(values.shape) if isinstance(values, np.ndarray) else "several arrays"
        raise UserError(
            f"{name}: got {shape} in {file}, allowed: [rows], one value for each row of the table"
        )
    if values.dtype.kind not in "iuUS":
        raise UserError(
            f"{name}: got {values.dtype} in {file}, allowed: whole numbers, or texts of a fixed length"
        )
    return values


def _refuse_repeated(ordered: np.ndarray, name: str) -> None:
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise UserError(f"{name}: got {repeated[0]} twice, allowed: every value once")
