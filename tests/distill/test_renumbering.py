"""Which vocabularies may follow those of a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from distill.errors import UserError
from distill.renumbering import numbering, refuse_renumbered
from distill.schema import SparseFeature
from distill.tensor_file import write_tensors
from distill.vocabulary import Vocabulary


def vocabularies(values: list[Any], ids: str = "vocabulary") -> dict[str, Vocabulary]:
    feature = SparseFeature("item", 9, ids=ids, unknown=values[0] is None)
    kind = pa.int64() if isinstance(values[-1], int) else pa.large_string()
    return {"item": Vocabulary(feature, pa.array(values, kind), np.arange(len(values)))}


BEFORE = vocabularies([None, "a", "b"])


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "day.safetensors", {"x": torch.zeros(1)}, numbering(BEFORE))
    return tmp_path / "day.safetensors"


@pytest.mark.parametrize("after", [BEFORE, vocabularies([None, "a", "b", "c"]), {}])
def test_new_values_after_the_old_ones(snapshot: Path, after: dict[str, Vocabulary]) -> None:
    refuse_renumbered(snapshot, after)


@pytest.mark.parametrize(
    "after",
    [
        vocabularies([None, "b", "a"]),
        vocabularies([None, "a"]),
        vocabularies(["a", "b"]),
        vocabularies([None, 1, 2]),
        vocabularies([None, "a", "b"], ids="hash"),
    ],
)
def test_other_values_are_refused(snapshot: Path, after: dict[str, Vocabulary]) -> None:
    with pytest.raises(
        UserError, match=r"start: item: its rows stand for other values .* put vocabulary/item"
    ):
        refuse_renumbered(snapshot, after)


def test_hash_into_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "day.safetensors"
    write_tensors(path, {"x": torch.zeros(1)}, numbering(vocabularies([None], ids="hash")))
    refuse_renumbered(path, vocabularies([None, "new"], ids="hash"))
    with pytest.raises(UserError, match="start: item"):
        refuse_renumbered(path, {"item": wider(vocabularies([None], ids="hash")["item"])})


def wider(vocabulary: Vocabulary) -> Vocabulary:
    feature = SparseFeature("item", 10, ids="hash")
    return Vocabulary(feature, vocabulary.values, vocabulary.rows)


def test_snapshots_of_row_numbers_say_nothing(tmp_path: Path) -> None:
    assert numbering({}) == {}
    write_tensors(tmp_path / "day.safetensors", {"x": torch.zeros(1)}, {})
    refuse_renumbered(tmp_path / "day.safetensors", BEFORE)
