"""The floor against the same model written with dictionaries, row by row."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import experiments.catalog  # noqa: F401  fills the registries
from distill.config import ExperimentConfig, ScheduleConfig
from distill.dataset import DataSet
from distill.predictions import Predictions, prediction_path, read_predictions
from distill.schedule import Schedule
from distill.sources.writer import PreparedWriter
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.floor import floor_cell, run_floor
from tests.distill.prepared_data import DAY_MS, WINDOW_MS, day_table, small_schema
from tests.distill.tiny_training import Silence

DAYS, ROWS, PRIOR = 6, 40, 20
SCHEDULE = ScheduleConfig(tune_days=[5, 6], test_days=[])


def table_of(day: int) -> pa.Table:
    """A day whose labels are drawn by coin, a fifth of the second task's unknown."""
    random = np.random.default_rng(day)
    order = [None if unknown < 0.2 else int(hit < 0.3) for unknown, hit in random.random((ROWS, 2))]
    item = random.integers(0, 7, ROWS).tolist()
    click = (random.random(ROWS) < 0.2 + 0.1 * np.array(item)).astype(int).tolist()
    return day_table(day, ROWS, item_id=item, label_click=click, label_order=order)


def write(folder: Path, table: Callable[[int], pa.Table] = table_of) -> DataSet:
    with PreparedWriter(folder, small_schema(DAYS), source="test", fingerprint="f" * 64) as writer:
        for day in range(1, DAYS + 1):
            writer.write_day(day, table(day))
    return DataSet.open(folder)


def floor_of(data: DataSet, out: Path, seeds: tuple[int, ...] = (0,)) -> list[Predictions]:
    config = ExperimentConfig(name="floor", output=str(out), seeds=list(seeds), schedule=SCHEDULE)
    experiment = Experiment(config, "hash", out, data, Schedule(SCHEDULE, DAYS))
    run_floor(experiment, Silence())
    cell = floor_cell(experiment)
    assert (cell.role, cell.vertical, cell.channel) == ("floor", "all", "none")
    return [read_predictions(prediction_path(out, cell, seed)) for seed in seeds]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Predictions:
    folder = tmp_path_factory.mktemp("floor")
    (predictions,) = floor_of(write(folder / "data"), folder / "out")
    return predictions


def by_hand(task: str) -> dict[int, float]:
    """example_id to logit: trained on day 2, predicted from day 3; tags hold several ids and stay out.

    A day begins with the labels of earlier days that are known by then: orders are after their window.
    """
    inputs: dict[int, list] = {}
    for day in range(1, DAYS + 1):
        known: dict[tuple, int] = defaultdict(int)
        hits: dict[tuple, int] = defaultdict(int)
        for row in (row for earlier in range(1, day) for row in table_of(earlier).to_pylist()):
            if is_known(row, task, (day - 1) * DAY_MS):
                for key in [(), *keys_of(row)]:
                    known[key] += 1
                    hits[key] += row[f"label_{task}"]
        overall = (hits[()] + 1) / (known[()] + 2)
        inputs[day] = []
        for row in table_of(day).to_pylist():
            columns = []
            for key in keys_of(row):
                rate = (hits[key] + PRIOR * overall) / (known[key] + PRIOR)
                columns += [math.log(rate / (1 - rate)), math.log(1 + known[key])]
            inputs[day].append((row, columns))
    train = [pair for pair in inputs[2] if is_known(pair[0], task, 2 * DAY_MS)]
    scaler = StandardScaler().fit([columns for _, columns in train])
    model = LogisticRegression(max_iter=500)
    model.fit(scaler.transform([columns for _, columns in train]), [row[f"label_{task}"] for row, _ in train])
    scored = [pair for day in range(3, DAYS + 1) for pair in inputs[day]]
    logits = model.decision_function(scaler.transform([columns for _, columns in scored]))
    return {row["example_id"]: float(logit) for (row, _), logit in zip(scored, logits, strict=True)}


def is_known(row: dict, task: str, now: int) -> bool:
    window = WINDOW_MS if task == "order" else 0
    return row[f"label_{task}"] is not None and row["timestamp"] + window <= now


def keys_of(row: dict) -> list[tuple]:
    user, item = row["user_id"], row["item_id"]
    return [("user", user), ("item", item), ("pair", user, row["domain"])]


@pytest.mark.parametrize("task", ["click", "order"])
def test_logits_are_those_of_rates_of_earlier_days(found: Predictions, task: str) -> None:
    expected = by_hand(task)
    assert found.example_id.tolist() == list(expected)
    np.testing.assert_allclose(found.logits[task], list(expected.values()), rtol=2e-3, atol=2e-3)


def test_rows_carry_their_day_and_split(found: Predictions) -> None:
    assert found.day.tolist() == np.repeat([3, 4, 5, 6], ROWS).tolist()
    assert found.split.tolist() == np.repeat([0, 0, 1, 1], ROWS).tolist()
    assert found.labels["order"].tolist()[:3] == [
        -1 if label is None else label for label in table_of(3)["label_order"].to_pylist()[:3]
    ]


def test_planted_leak_labels_of_a_day_change_nothing_of_its_own_predictions(
    found: Predictions, tmp_path: Path
) -> None:
    def turned(day: int) -> pa.Table:
        table = table_of(day)
        if day != 5:
            return table
        place = table.column_names.index("label_click")
        return table.set_column(
            place, "label_click", pa.array([1 - y for y in table["label_click"].to_pylist()])
        )

    (other,) = floor_of(write(tmp_path / "data", turned), tmp_path / "out")
    until, after = found.day <= 5, found.day == 6
    np.testing.assert_array_equal(other.logits["click"][until], found.logits["click"][until])
    assert not np.allclose(other.logits["click"][after], found.logits["click"][after])


def test_planted_leak_labels_that_are_late_change_nothing_of_the_next_day(
    found: Predictions, tmp_path: Path
) -> None:
    """Orders of the last tenth of a day are known after the next one has begun."""

    def turned(day: int) -> pa.Table:
        table = table_of(day)
        late = [row["timestamp"] + WINDOW_MS > day * DAY_MS for row in table.to_pylist()]
        if day != 4:
            return table
        assert sum(late) == 3
        orders = [
            1 if of_late else order
            for of_late, order in zip(late, table["label_order"].to_pylist(), strict=True)
        ]
        return table.set_column(
            table.column_names.index("label_order"), "label_order", pa.array(orders, pa.int8())
        )

    (other,) = floor_of(write(tmp_path / "data", turned), tmp_path / "out")
    until, after = found.day <= 5, found.day == 6
    np.testing.assert_array_equal(other.logits["order"][until], found.logits["order"][until])
    assert not np.allclose(other.logits["order"][after], found.logits["order"][after])


def test_every_seed_gets_the_same_file(tmp_path: Path) -> None:
    first, second = floor_of(write(tmp_path / "data"), tmp_path / "out", seeds=(3, 4))
    np.testing.assert_array_equal(first.logits["click"], second.logits["click"])


def test_task_without_a_positive_in_the_first_days_has_finite_rates(tmp_path: Path) -> None:
    def rare(day: int) -> pa.Table:
        return day_table(day, ROWS, label_click=[int(day > 1 and row % 9 == 0) for row in range(ROWS)])

    (predictions,) = floor_of(write(tmp_path / "data", rare), tmp_path / "out")
    assert np.isfinite(predictions.logits["click"]).all()
