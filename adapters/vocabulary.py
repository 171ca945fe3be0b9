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


@dataclass(frozen=True)
class Match:
    """The rows of two tables of one feature, brought together by value.

    Attributes:
        rows: int64 [R], the teacher's row of each of the student's, -1 where it has no such value.
        teacher_rows: S.
    """

    rows: Tensor
    teacher_rows: int


def read_match(teacher: str, student: str, size: int, name: str) -> Match:
    """Match the values in two files.

    Args:
        teacher, student: .npy files, the value of each row.
        size: R, rows of the student's table.
        name: the field that names the two.

    Raises:
        UserError: values that cannot be read or matched, or not one for each row of the student's table.
    """
    teacher_values, student_values = _read(teacher, f"{name}.teacher"), _read(student, f"{name}.student")
    if len(student_values) != size:
        raise UserError(
            f"{name}.student: got {len(student_values)} values in {student}, allowed: {size}, one for each row of the "
            "student's table"
        )
    rows = torch.from_numpy(match_rows(teacher_values, student_values, name))
    return Match(rows, len(teacher_values))


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


def _read(file: str, name: str) -> np.ndarray:
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
