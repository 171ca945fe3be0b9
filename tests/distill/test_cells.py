from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from distill.cells import CELL_COLUMNS, CellError, read_cells, row_sets, write_cells
from tests.distill.prediction_data import STUDENT, TEACHER


def test_cells_come_back(tmp_path):
    odd = dataclasses.replace(STUDENT, model='a "quoted", name', lag=12)
    write_cells(tmp_path / "cells.csv", [STUDENT, odd, TEACHER, STUDENT])
    assert sorted(read_cells(tmp_path / "cells.csv")) == sorted([STUDENT, odd, TEACHER])


def test_the_file_has_the_protocols_columns(tmp_path):
    write_cells(tmp_path / "cells.csv", [STUDENT])
    header, row = (tmp_path / "cells.csv").read_text().splitlines()
    assert header == "cell_id,experiment,model,role,vertical,schedule,inputs,route,lag,channel"
    assert row == f"{STUDENT.cell_id},demo,deepfm,student,feed,progressive,thin,direct,1,none"


def test_the_id_is_stable():
    # printf '["demo","deepfm","student","feed","progressive","thin","direct",1,"none"]' | sha256sum
    assert STUDENT.cell_id == "2806c11ba0c7"


@pytest.mark.parametrize("field", CELL_COLUMNS)
def test_every_field_changes_the_id(field):
    other: Any = {"schedule": "frozen", "inputs": "rich", "route": "hierarchical", "lag": 2}.get(
        field, "other"
    )
    assert dataclasses.replace(STUDENT, **{field: other}).cell_id != STUDENT.cell_id


@pytest.mark.parametrize(
    ("field", "bad", "message"),
    [
        ("schedule", "frozn", "Did you mean 'frozen'"),
        ("inputs", "fat", "thin, rich"),
        ("route", "", "direct, hierarchical"),
        ("lag", -1, "whole number"),
        ("lag", True, "whole number"),
        ("model", "", "model: got ''"),
        ("vertical", 3, "vertical: got 3"),
    ],
)
def test_bad_fields_are_refused(field, bad, message):
    with pytest.raises(CellError, match=message):
        dataclasses.replace(STUDENT, **{field: bad})


def test_row_sets_of_a_teacher_are_all_of_a_student_its_own():
    assert row_sets(["a", "b"]) == {"a": ("a",), "b": ("b",), "pooled": ("a", "b")}
    assert TEACHER.row_sets(["a", "b"]) == row_sets(["a", "b"])
    assert STUDENT.row_sets(["a", "feed"]) == {"feed": ("feed",)}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CellError, match="no file .*cells.csv"):
        read_cells(tmp_path / "cells.csv")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cell_id,", "id,", "columns"),
        (",thin,", ",rich,", "cells.csv:2: cell_id: got .* the hash of its fields"),
        (",1,none", ",one,none", "cells.csv:2: lag: got 'one'"),
        (",1,none", "", "cells.csv:2: got a row of another length"),
        (",none", ",none,none", "cells.csv:2: got a row of another length"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, old, new, message):
    path = tmp_path / "cells.csv"
    write_cells(path, [STUDENT])
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CellError, match=message):
        read_cells(path)
