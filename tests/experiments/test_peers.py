"""The peers benchmark, as far as it goes without the peers: exported rows, the table, what runners import."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distill.dataset import DataSet
from distill.errors import UserError
from distill.schema import DayInfo, FeatureSchema, SparseFeature, Task
from distill.sources.writer import PreparedWriter
from experiments.benchmarks.peers import table
from experiments.benchmarks.peers.prepare import export
from experiments.benchmarks.peers.work import FIELDS, HISTORY_LENGTH, ITEM, Description, Rows

DAYS, ROWS, DAY_MS, USERS, ITEMS = 12, 40, 1000, 3, 7
PEERS = Path(table.__file__).parent


def day_columns(day: int) -> dict[str, list[int]]:
    """Row r of a day: user r % 3, item (r * day) % 7, two rows a moment, so that some share user and time."""
    numbers = range(ROWS)
    columns = {name: [(r + place) % 5 for r in numbers] for place, name in enumerate(FIELDS)}
    return columns | {
        "user_id": [r % USERS for r in numbers],
        ITEM: [(r * day) % ITEMS for r in numbers],
        "example_id": [day * 1000 + r for r in numbers],
        "timestamp": [(day - 1) * DAY_MS + r // 4 for r in numbers],
        "domain": [0] * ROWS,
        "label_click": [r % 2 for r in numbers],
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Twelve days with the fields of KuaiRand."""
    schema = FeatureSchema(
        name="small",
        domains=("1",),
        verticals=("1",),
        days=tuple(DayInfo(f"2026-01-{day:02d}", day * DAY_MS) for day in range(1, DAYS + 1)),
        tasks={"click": Task("click")},
        sparse={name: SparseFeature(name, ITEMS) for name in FIELDS},
        item_feature=ITEM,
    )
    folder = tmp_path_factory.mktemp("data") / "small"
    with PreparedWriter(folder, schema, source="test", fingerprint="f" * 64) as writer:
        for day in range(1, DAYS + 1):
            writer.write_day(day, pa.table(day_columns(day)))
    return DataSet.open(folder)


@pytest.fixture(scope="module")
def rows(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    export(data, folder, range(1, 10), (10, 11))
    return folder


def test_both_sets_have_the_same_fields_and_their_own_days(rows: Path) -> None:
    train, evaluation = (Rows.load(rows / f"{name}.npz") for name in ("train", "evaluation"))
    assert tuple(train.fields) == tuple(evaluation.fields) == FIELDS
    assert (len(train), len(evaluation)) == (9 * ROWS, 2 * ROWS)
    assert tuple(Description.load(rows).sizes) == FIELDS


def test_ids_are_moved_up_by_one_within_their_size(rows: Path) -> None:
    train, sizes = Rows.load(rows / "train.npz"), Description.load(rows).sizes
    for name, ids in train.fields.items():
        expected = np.concatenate([day_columns(day)[name] for day in range(1, 10)]) + 1
        np.testing.assert_array_equal(ids, expected)
        assert ids.max() < sizes[name] == ITEMS + 1
    np.testing.assert_array_equal(train.click, np.tile(np.arange(ROWS) % 2, 9))


def test_history_is_the_last_items_strictly_before_the_row(rows: Path) -> None:
    whole = [(day_columns(day), day) for day in range(1, DAYS + 1)]
    log = [
        (time, user, item)
        for columns, _ in whole
        for time, user, item in zip(columns["timestamp"], columns["user_id"], columns[ITEM], strict=True)
    ]
    evaluation = Rows.load(rows / "evaluation.npz")
    for row, (time, user, _) in enumerate(log[9 * ROWS : 11 * ROWS]):
        past = [item + 1 for then, who, item in log if who == user and then < time][-HISTORY_LENGTH:]
        assert evaluation.history_length[row] == len(past)
        np.testing.assert_array_equal(evaluation.history[row], past + [0] * (HISTORY_LENGTH - len(past)))


def test_a_day_of_the_test_is_refused(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 12, allowed: up to 11"):
        export(data, tmp_path / "rows", range(1, 10), (11, 12))


def test_data_without_the_fields_is_refused(data: DataSet, tmp_path: Path) -> None:
    other = FeatureSchema.load(data.folder / "schema.yaml")
    fields = {name: feature for name, feature in other.sparse.items() if name != "hour"}
    schema = FeatureSchema(**{**vars(other), "sparse": fields})
    lacking = DataSet(data.folder, schema, data.source, data.fingerprint, data.rows_per_day)
    with pytest.raises(UserError, match="hour"):
        export(lacking, tmp_path / "rows", (1,), (2,))


def run(library: str, turn: int, seconds: float, auc: float | None) -> table.Run:
    return table.Run(
        "din", library, "1", turn, 0.001 * (turn + 1), 100, seconds, seconds, 0.5, seconds - 0.5, auc
    )


def test_ratios_are_taken_within_a_round_and_the_best_score_is_kept() -> None:
    # The machine is three times slower in the last round: ratios 2, 2, 4, of the model alone 3, 2.5, 4.6.
    ours = [run(table.OURS, 0, 1.0, 0.6), run(table.OURS, 1, 1.5, 0.7), run(table.OURS, 2, 3.0, 0.65)]
    peer = [run("peer", 0, 2.0, 0.61), run("peer", 1, 3.0, 0.62), run("peer", 2, 12.0, 0.5)]
    mine, other = table.lines(ours + peer)
    assert (mine.auc, mine.learning_rate, mine.ratio_ours) == (0.7, 0.002, 1.0)
    assert (other.auc, other.learning_rate, other.ratio_ours) == (0.62, 0.002, 2.0)
    assert other.model_ratio_ours == 3.0
    assert other.examples_per_s == pytest.approx(100 / 3)


def test_a_missed_bar_is_said() -> None:
    runs = [run(table.OURS, 0, 1.0, 0.6), run("peer", 0, 1.4, 0.61), run(table.DENSE, 0, 0.8, None)]
    said = table.bars(table.lines(runs), "din")
    assert [text.split()[1] for text in said] == ["missed", "met", "missed", "met"]
    assert "80% of the dense" in said[-1]


@pytest.mark.parametrize("path", [*sorted(PEERS.glob("peer_*.py")), PEERS / "harness.py", PEERS / "work.py"])
def test_what_runs_under_a_peers_interpreter_needs_nothing_else_of_the_project(path: Path) -> None:
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    rooms = ("kernels", "distill", "adapters", "teachers", "students", "experiments")
    ours = {node.module for node in imported if node.module and node.module.split(".")[0] in rooms}
    assert ours <= {f"experiments.benchmarks.peers.{name}" for name in ("harness", "work")}
