"""Several processes train as one: the same steps, the same predictions, every row once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.dataset import DataSet
from distill.distributed import (
    batch_of_share,
    mean_of_all,
    refuse_together,
    rows_of_all,
    share,
    share_of_labels,
    whole_batch,
)
from distill.errors import UserError
from kernels.table_sharding import Sharding
from tests.distill.prepared_data import write_small
from tests.distill.shared_training import launch, train_together
from tests.distill.tiny_training import Own

ROWS, DAYS = 141, 4
"""18 steps a day; the last one has 5 rows, which no number of processes divides."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_small(tmp_path_factory.mktemp("data") / "small", days=DAYS, rows=ROWS)


@pytest.fixture(scope="module")
def alone(data: DataSet) -> dict[str, np.ndarray]:
    """What one process ends with."""
    return train_together(data, clip_norm=0.05)


def ne(logits: np.ndarray) -> float:
    """Normalised entropy of the first task of the rows of `prepared_data`, where label_click is 1 on every third."""
    label = np.arange(len(logits)) % 3 == 0
    loss = np.logaddexp(0, logits) - label * logits
    rate = label.mean()
    return float(loss.mean() / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


ROW_WISE, MIXED = Sharding(), Sharding("table_wise", {"item_id": "data_parallel"})


@pytest.mark.parametrize(("number", "sharding", "split"), [(2, MIXED, True), (4, ROW_WISE, False)])
def test_processes_together_equal_one(
    number: int,
    sharding: Sharding,
    split: bool,
    data: DataSet,
    alone: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    found = launch(number, data.folder, tmp_path / "found.npz", 0.05, sharding, split)

    assert int(alone["steps"]) >= 50
    for name in alone:
        if name.startswith("state/"):
            np.testing.assert_allclose(found[name], alone[name], rtol=0, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=0, atol=1e-5)
    assert found["seen"].tolist() == alone["seen"].tolist() == [ROWS, 2 * ROWS, 3 * ROWS]
    order, order_alone = np.argsort(found["example_id"]), np.argsort(alone["example_id"])
    assert found["example_id"][order].tolist() == alone["example_id"][order_alone].tolist()
    assert len(set(found["example_id"].tolist())) == (DAYS - 1) * ROWS
    logits, logits_alone = found["logits"][order], alone["logits"][order_alone]
    np.testing.assert_allclose(logits, logits_alone, rtol=0, atol=1e-5)
    last = slice(-ROWS, None)
    assert ne(logits[last, 0]) == pytest.approx(ne(logits_alone[last, 0]), abs=1e-5)
    np.testing.assert_array_equal(found["uneven"], [(number + 1) / 2, 1.0, np.nan])


def test_a_process_alone_shares_nothing() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    share_of_mask = share_of_labels(mask)()
    assert share_of_mask.task_weights is None and share_of_mask.examples == 2
    assert batch_of_share(7) == 7
    assert mean_of_all({"loss": 0.5}) == {"loss": 0.5}
    assert rows_of_all({"id": np.arange(3)})["id"].tolist() == [0, 1, 2]
    refuse_together({"own": Own()})
    rows = torch.randn(3, 2)
    assert whole_batch(rows) is rows


@pytest.mark.parametrize("size", [7, 1])
def test_a_batch_that_cannot_be_shared_is_refused(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "processes", lambda: 2)
    with pytest.raises(UserError, match=f"batch_size: got {size} with 2 processes, allowed: a multiple"):
        batch_of_share(size)


def test_channels_of_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "processes", lambda: 2)
    refuse_together({})
    with pytest.raises(UserError, match="channels: got own with 2 processes, allowed: none"):
        refuse_together({"own": Own()})
