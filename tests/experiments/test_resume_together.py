"""Several processes that train together are stopped and go on, as many of them or fewer or more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.dataset import DataSet
from tests.distill.prepared_data import write_small
from tests.distill.shared_training import run_together
from tests.experiments.resumed_together import DAYS, ROWS, STOPS, Left, everything, stopped, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_small(tmp_path_factory.mktemp("data") / "small", days=DAYS, rows=ROWS)


@pytest.fixture(scope="module")
def out(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left everything."""
    folder = tmp_path_factory.mktemp("out")
    stopped(data, folder / "one", 8)
    run_together(2, everything, data.folder, folder / "one", folder)
    return folder


def left(out: Path, name: str) -> Left:
    with np.load(out / f"{name}.npz") as arrays:
        return dict(arrays)


def assert_same(got: Left, expected: Left, tolerance: float = 0.0) -> None:
    """The numbers within a tolerance, every row once and in the same place."""
    for name, values in expected.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(got[name], values, rtol=0, atol=tolerance, err_msg=name)
        else:
            assert got[name].tolist() == values.tolist(), name
    assert len(set(got["rows/example_id"].tolist())) == len(got["rows/example_id"]) == (DAYS - 1) * ROWS


@pytest.mark.parametrize("batch", STOPS)
def test_as_many_processes_end_bit_by_bit_as_if_never_stopped(out: Path, batch: int) -> None:
    assert_same(left(out, f"stopped {batch}"), left(out, "undisturbed"))


def test_split_parameters_end_bit_by_bit_as_if_never_stopped(out: Path) -> None:
    assert_same(left(out, "split, stopped"), left(out, "split"))
    assert_same(left(out, "split"), left(out, "undisturbed"), tolerance=1e-5)


def test_two_go_on_from_what_one_saved(data: DataSet, out: Path) -> None:
    assert_same(left(out, "from one"), train(data), tolerance=1e-5)


def test_one_goes_on_from_what_two_saved(data: DataSet, out: Path) -> None:
    assert_same(train(data, out / "two"), train(data), tolerance=1e-5)


def test_damaged_part_of_one_process_is_named_and_the_checkpoint_before_is_taken(out: Path) -> None:
    found = left(out, "damaged")
    (said,) = found["said"].tolist()
    assert "step-0000000002: damaged (the checksum of process-0001/" in said
    assert said.endswith("the one before it is taken")
    assert_same(found, left(out, "undisturbed"))


def test_all_stop_after_the_same_step_when_one_is_told(out: Path) -> None:
    found = left(out, "told")
    assert found["steps"].tolist() == 2
    assert_same(found, left(out, "undisturbed"))
