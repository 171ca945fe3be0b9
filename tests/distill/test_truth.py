from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.errors import DataError
from distill.truth import read_truth


@pytest.fixture
def data(tmp_path):
    (tmp_path / "truth").mkdir()
    for day, ids in ((9, [5, 3]), (10, [8])):
        columns = {"example_id": ids, "p_click": [i / 10 for i in ids], "p_buy": [i / 100 for i in ids]}
        pq.write_table(pa.table(columns), tmp_path / "truth" / f"day={day:04d}.parquet")
    return tmp_path


def test_probabilities_are_found_by_example(data):
    truth = read_truth(data, [9, 10])
    np.testing.assert_allclose(truth.of("click", np.array([8, 3, 5, 3])), [0.8, 0.3, 0.5, 0.3])
    np.testing.assert_allclose(truth.of("buy", np.array([8])), [0.08])


def test_missing_examples_are_counted(data):
    truth = read_truth(data, [9])
    with pytest.raises(DataError, match=r"2 of 3 examples are missing, the first \[8, 1\]"):
        truth.of("click", np.array([8, 3, 1]))


def test_an_unknown_task_is_named(data):
    with pytest.raises(DataError, match="got no task 'like', allowed: click, buy"):
        read_truth(data, [9]).of("like", np.array([3]))


@pytest.mark.parametrize("days", [[9, 11], []])
def test_days_without_truth_are_refused(data, days):
    with pytest.raises(DataError, match="truth: no file"):
        read_truth(data, days)


def test_an_example_may_stand_only_once(data):
    (data / "truth" / "day=0011.parquet").write_bytes((data / "truth" / "day=0010.parquet").read_bytes())
    with pytest.raises(DataError, match="stands twice"):
        read_truth(data, [10, 11])
