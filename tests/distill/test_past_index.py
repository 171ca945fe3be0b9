"""Vectors by key and time: order, steps of the codecs, nothing for what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.past_index import IndexFacts, Part, PastIndex, write_index

VALUES = np.array([[0.5, -1.0], [0.25, 0.0], [3.0, 1.5], [-3.0, 2.0], [1.0, 0.75]], np.float32)


def part(keys: list[int], times: list[int], rows: list[int]) -> Part:
    return np.array(keys), np.array(times), VALUES[rows]


def index_of(folder: Path, parts: list[Part], codec: str = "fp16", largest: float = 3.0) -> PastIndex:
    return PastIndex(folder / "index", write_index(folder / "index", parts, 2, codec, largest))


def last(index: PastIndex, key: int, now: int, limit: int = 9) -> list[list[float]]:
    return index.last(np.array([key]), np.array([now]), limit).values.tolist()


def test_parts_in_any_order_come_out_oldest_first(tmp_path: Path) -> None:
    index = index_of(tmp_path, [part([7, 2], [30, 5], [0, 1]), part([7, 7, 2], [10, 20, 4], [2, 3, 4])])
    past = index.last(np.array([7, 3, 2]), np.array([31, 31, 5]), limit=2)
    assert past.offsets.tolist() == [0, 2, 2, 3]
    assert past.time.tolist() == [20, 30, 4]
    assert past.values.tolist() == VALUES[[3, 0, 4]].tolist()


def test_vectors_of_one_time_keep_their_order(tmp_path: Path) -> None:
    index = index_of(tmp_path, [part([1, 1], [5, 5], [4, 0]), part([1], [5], [2])])
    assert last(index, 1, 6) == VALUES[[4, 0, 2]].tolist()
    assert last(index, 1, 5) == []


def test_an_index_of_nothing_answers_with_nothing(tmp_path: Path) -> None:
    index = index_of(tmp_path, [])
    past = index.last(np.array([1, 2]), np.array([5, 5]), limit=3)
    assert past.offsets.tolist() == [0, 0, 0] and past.values.shape == (0, 2)
    assert index.facts == IndexFacts(keys=0, vectors=0, width=2, codec="fp16", step=1.0)
    assert index.facts.bytes_per_key == 0


def test_int8_is_off_by_half_a_step_of_the_largest_at_most(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-3, 3, (500, 2)).astype(np.float32)
    values[0] = [3.0, -3.0]
    index = index_of(tmp_path, [(np.zeros(500, np.int64), np.arange(500), values)], "int8")
    found = np.array(last(index, 0, 500, limit=500))
    error = np.abs(found - values)
    assert error.max() <= 3 / 254 * 1.0001 and error.max() > 3 / 300
    np.testing.assert_allclose(found[0], [3.0, -3.0], rtol=1e-6)
    assert np.load(tmp_path / "index" / "codes.npy").dtype == np.int8


@pytest.mark.parametrize(("codec", "size"), [("int8", 2), ("fp16", 4)])
def test_bytes_of_a_key_count_vectors_and_times(tmp_path: Path, codec: str, size: int) -> None:
    index = index_of(tmp_path, [part([1, 1, 2], [1, 2, 3], [0, 1, 2])], codec)
    assert index.facts.bytes_per_key == 3 * (size + 8) / 2


def test_scratch_files_are_gone(tmp_path: Path) -> None:
    index_of(tmp_path, [part([1], [1], [0])])
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "codes.npy",
        "key.npy",
        "offsets.npy",
        "time.npy",
    ]


def test_vectors_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="vectors: got"):
        index_of(tmp_path, [(np.array([1]), np.array([1]), np.zeros((1, 3), np.float32))])
