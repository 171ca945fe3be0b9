"""Requests with raw ids, their histories included, and the way back from rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distill.errors import DataError
from distill.vocabulary import TEXT, WHOLE, Vocabulary
from experiments.benchmarks.synthetic import make_batch
from students.export import raw
from students.export.rows import table_of
from students.export.serve import serve
from students.export.signature import Signature
from tests.students.test_export import SCHEMA, make

ITEM = SCHEMA.item_feature


def vocabularies(unknown: bool = True) -> dict[str, Vocabulary]:
    """The item's by name, `feature_1` hashed into 7 rows of which each has occurred."""
    texts = [None] * unknown + [f"item {row}" for row in range(unknown, 9)]
    item = replace(SCHEMA.sparse[ITEM], ids="vocabulary", unknown=unknown)
    hashed = replace(SCHEMA.sparse["feature_1"], ids="hash", unknown=False)
    numbers = pa.array(range(200), WHOLE)
    rows = Vocabulary(hashed, numbers, np.arange(200)).rows_of(numbers, "x").to_numpy()
    first = np.unique(rows, return_index=True)[1]
    return {
        ITEM: Vocabulary(item, pa.array(texts, TEXT), np.arange(9)),
        "feature_1": Vocabulary(hashed, numbers.take(pa.array(first)), np.arange(7)),
    }


def signature_of(found: dict[str, Vocabulary]) -> Signature:
    student = make("din")
    student.schema = replace(
        SCHEMA, sparse=SCHEMA.sparse | {name: one.feature for name, one in found.items()}
    )
    return serve(student, "fp32", found).signature


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return table_of(make_batch(SCHEMA, [0, 3, 1, 2, 0], seed=0), serve(make("din"), "fp32").signature)


def test_rows_become_raw_ids_and_rows_again(rows: pa.Table) -> None:
    found = vocabularies()
    asked = raw.with_values(rows, signature_of(found), found)
    assert pa.types.is_large_string(asked[ITEM].type)
    assert set(asked["history_items"].combine_chunks().flatten().to_pylist()) <= set(
        found[ITEM].values.to_pylist()
    )
    again = raw.with_rows(asked, signature_of(found), found)
    assert all(again[name].to_pylist() == rows[name].to_pylist() for name in rows.column_names)


def test_unknown_items_of_a_history_are_row_0_or_refused(rows: pa.Table) -> None:
    history = pa.array([["item 3", "new"], [], ["item 8"], [], []])
    place = rows.column_names.index("history_items")
    for found in (vocabularies(), vocabularies(unknown=False)):
        asked = raw.with_values(rows, signature_of(found), found).set_column(place, "history_items", history)
        if found[ITEM].feature.unknown:
            got = raw.with_rows(asked, signature_of(found), found)["history_items"].to_pylist()
            assert got == [[3, 0], [], [8], [], []]
        else:
            with pytest.raises(DataError, match=r"history_items: got 'new' \(1 values\), allowed: .*unknown"):
                raw.with_rows(asked, signature_of(found), found)


def test_an_export_without_raw_ids_stays_as_it_was(rows: pa.Table, tmp_path: Path) -> None:
    signature = serve(make("din"), "fp32").signature
    assert raw.with_rows(rows, signature, {}) is rows
    raw.write(tmp_path, signature, {})
    assert raw.read(tmp_path, signature) == {} and not list(tmp_path.iterdir())


def test_written_and_read(tmp_path: Path) -> None:
    found = vocabularies()
    raw.write(tmp_path, signature_of(found), found)
    again = raw.read(tmp_path, signature_of(found))
    column = pa.array([5, -7, 2**40])
    assert again["feature_1"].rows_of(column, "x").equals(found["feature_1"].rows_of(column, "x"))
    assert again[ITEM].values.equals(found[ITEM].values)
