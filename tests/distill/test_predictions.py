from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.errors import UserError
from distill.predictions import (
    SPLITS,
    CellPredictions,
    PredictionError,
    Predictions,
    open_predictions,
    prediction_path,
    read_predictions,
    write_predictions,
)
from tests.distill.full_disk import full_disk
from tests.distill.prediction_data import STUDENT, TEACHER, predictions, write_run


def mixed(n=6):
    """Rows of both domains and all splits, with an unknown label."""
    label = np.arange(n) % 3 - 1
    domain, split = np.resize(["feed", "reels"], n), np.resize(["train", "tune", "test"], n)
    return predictions(np.linspace(-2, 2, n), label, example_id=np.arange(n) + 10, domain=domain, split=split)


def assert_equal(a, b):
    for name in ("example_id", "user_id", "timestamp", "day", "split"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(np.array(a.domains)[a.domain], np.array(b.domains)[b.domain])
    for task in b.tasks:
        np.testing.assert_array_equal(a.logits[task], b.logits[task])
        np.testing.assert_array_equal(a.labels[task], b.labels[task])


def test_rows_come_back_in_order(tmp_path):
    write_predictions(tmp_path / "a" / "0.parquet", mixed())
    assert_equal(read_predictions(tmp_path / "a" / "0.parquet"), mixed())


def test_many_row_groups_come_back(tmp_path):
    n = 140_000
    label = np.arange(n) % 3 - 1
    domain = np.repeat(["feed", "reels"], [70_000, n - 70_000])  # the first row group knows one domain only
    rows = predictions(np.arange(n) / n, label, domain=domain)
    write_predictions(tmp_path / "0.parquet", rows)
    assert pq.ParquetFile(tmp_path / "0.parquet").num_row_groups == 3
    assert_equal(read_predictions(tmp_path / "0.parquet"), rows)


def test_the_file_has_the_protocols_columns(tmp_path):
    write_predictions(tmp_path / "0.parquet", mixed())
    table = pq.read_table(tmp_path / "0.parquet")
    assert table.column_names == [
        "example_id", "user_id", "timestamp", "day", "domain", "split", "logit_click", "label_click",
    ]  # fmt: skip
    assert table["domain"].to_pylist()[:2] == ["feed", "reels"]
    assert table["split"].to_pylist()[:3] == ["train", "tune", "test"]
    assert table["label_click"].to_pylist()[:3] == [None, 0, 1]
    assert table.schema.field("day").type == pa.int32()


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path):
    write_predictions(tmp_path / "0.parquet", mixed())
    with full_disk(), pytest.raises(UserError, match=r"0\.parquet: the disk is full"):
        write_predictions(tmp_path / "0.parquet", mixed(2000))
    assert_equal(read_predictions(tmp_path / "0.parquet"), mixed())
    assert [path.name for path in tmp_path.iterdir()] == ["0.parquet"]


def test_a_flipped_byte_of_a_column_is_noticed(tmp_path):
    path = tmp_path / "0.parquet"
    write_predictions(path, mixed(2000))
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    whole = bytearray(path.read_bytes())
    whole[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(
        PredictionError, match=r"0\.parquet: not a readable .*Remove it; `distill run` trains"
    ):
        read_predictions(path)


def test_splits_that_are_not_asked_for_are_not_read(tmp_path):
    write_predictions(tmp_path / "0.parquet", mixed())
    found = read_predictions(tmp_path / "0.parquet", ["tune"])
    np.testing.assert_array_equal(found.example_id, [11, 14])


def test_a_split_may_be_empty_in_a_file(tmp_path):
    write_predictions(tmp_path / "0.parquet", mixed(1))
    assert len(read_predictions(tmp_path / "0.parquet", ["test"])) == 0


def test_select_takes_a_split_and_domains():
    np.testing.assert_array_equal(mixed().select("tune", ["reels"]).example_id, [11])
    np.testing.assert_array_equal(mixed().select("tune", ["feed", "reels"]).example_id, [11, 14])
    assert len(mixed().select("tune", ["stories"])) == 0


def test_concatenation_unites_domains():
    first = predictions([1.0], [1], domains=("feed",))
    second = predictions([2.0], [0], domains=("reels",), domain="reels", example_id=np.array([5]))
    both = Predictions.concatenate([first, second])
    np.testing.assert_array_equal(np.array(both.domains)[both.domain], ["feed", "reels"])
    np.testing.assert_array_equal(both.logits["click"], [1.0, 2.0])


def test_concatenation_needs_one_set_of_tasks():
    other = predictions(
        [2.0], [0], logits={"like": np.zeros(1, np.float32)}, labels={"like": np.zeros(1, np.int8)}
    )
    with pytest.raises(PredictionError, match="to concatenate: got tasks"):
        Predictions.concatenate([mixed(), other])
    with pytest.raises(PredictionError, match="to concatenate"):
        Predictions.concatenate([])


def test_rows_of_two_parts_must_differ():
    with pytest.raises(
        PredictionError, match=r"example_id: got \[10, 11, 12, 13, 14\] more than once \(6 rows"
    ):
        Predictions.concatenate([mixed(), mixed()])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"example_id": np.array([7, 8, 7])}, r"example_id: got \[7\] more than once"),
        (
            {"logits": {"click": np.array([0.0, np.nan, np.inf], np.float32)}},
            r"logit_click: .* example_id \[1, 2\]",
        ),
        ({"labels": {"click": np.array([0, 2, 1], np.int8)}}, r"label_click: got \[2\] in example_id \[1\]"),
        (
            {"labels": {"click": np.array([0, -2, 1], np.int8)}},
            r"label_click: got \[-2\] in example_id \[1\]",
        ),
        ({"labels": {"like": np.zeros(3, np.int8)}}, "tasks: got logits of"),
        ({"logits": {}, "labels": {}}, "tasks: got logits of"),
        ({"user_id": np.zeros(2, np.int64)}, r"user_id: got shape \(2,\), allowed: \(3,\)"),
        ({"timestamp": np.zeros(3)}, "timestamp: got float64"),
        ({"logits": {"click": np.zeros(3, np.int64)}}, "logit_click: got int64"),
        ({"domain": np.array([0, 2, 0], np.int32), "domains": ("feed", "reels")}, r"domain: got \[2\]"),
        ({"split": np.array([0, 1, 3], np.int8)}, r"split: got \[3\] in example_id \[2\]"),
    ],
)
def test_rows_that_break_the_form_are_refused(columns, message):
    good = predictions(np.zeros(3), np.zeros(3))
    with pytest.raises(PredictionError, match=message):
        dataclasses.replace(good, **columns)


def test_no_rows_are_not_written(tmp_path):
    with pytest.raises(PredictionError, match="got no rows"):
        write_predictions(tmp_path / "0.parquet", mixed().take(np.array([], np.int64)))
    assert list(tmp_path.iterdir()) == []


def _without(name):
    return lambda table: table.drop_columns([name])


def _with(name, values, kind=None):
    def change(table):
        return table.set_column(table.column_names.index(name), name, pa.array(values, kind))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("label_click"), r"missing \['label_click'\]"),
        (_without("day"), r"missing \['day'\]"),
        (lambda table: table.append_column("p", pa.array([0.5] * 6)), r"unknown \['p'\]"),
        (lambda table: table.select(["example_id"]), "for at least one task"),
        (_with("day", np.arange(6)), "column day: got type int64, allowed: int32"),
        (_with("user_id", [1, 2, None, 4, 5, 6]), "column user_id: got 1 nulls"),
        (_with("logit_click", [0, 1, None, 0, 0, 0], pa.float32()), "column logit_click: got 1 nulls"),
        (
            _with("logit_click", [0, 1, np.nan, 0, 0, 0], pa.float32()),
            r"logit_click: got \[nan\] in example_id \[12\]",
        ),
        (_with("label_click", [0, 1, 5, 0, 0, 0], pa.int8()), r"label_click: got \[5\] in example_id \[12\]"),
        (_with("example_id", [1, 1, 2, 3, 4, 5]), r"example_id: got \[1\] more than once"),
    ],
)
def test_files_that_break_the_form_are_refused(tmp_path, change, message):
    path = tmp_path / "0.parquet"
    write_predictions(path, mixed())
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(PredictionError, match=f"0.parquet: .*{message}"):
        read_predictions(path)


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "0.parquet").write_text("no Parquet")
    with pytest.raises(PredictionError, match="not a readable Parquet file"):
        read_predictions(tmp_path / "0.parquet")
    with pytest.raises(PredictionError, match="no file"):
        read_predictions(tmp_path / "1.parquet")


@pytest.mark.parametrize("splits", [[], ["tune", "dev"]])
def test_splits_are_names_of_splits(tmp_path, splits):
    with pytest.raises(PredictionError, match=f"allowed: some of {', '.join(SPLITS)}"):
        read_predictions(tmp_path / "0.parquet", splits)


def test_a_run_folder_is_opened_by_its_cells(tmp_path):
    write_run(
        tmp_path, {STUDENT: {10: predictions([0.0], [1]), 2: predictions([0.5], [1])}, TEACHER: {0: mixed()}}
    )
    opened = open_predictions(tmp_path)
    student = next(source for source in opened if source.cell == STUDENT)
    assert {source.cell for source in opened} == {STUDENT, TEACHER}
    assert student.seeds == (2, 10)
    np.testing.assert_array_equal(student.read(2, ["tune"]).logits["click"], [0.5])
    assert prediction_path(tmp_path, STUDENT, 2) == tmp_path / "predictions" / STUDENT.cell_id / "2.parquet"


def test_a_cell_without_predictions_is_named(tmp_path):
    with pytest.raises(PredictionError, match=f"cell {STUDENT.cell_id} .* no <seed>.parquet"):
        CellPredictions(STUDENT, tmp_path).seeds  # noqa: B018


def test_a_student_with_rows_of_another_vertical_is_refused(tmp_path):
    (source,) = write_run(tmp_path, {STUDENT: {0: mixed()}})
    with pytest.raises(PredictionError, match="domain: got feed, reels, allowed: 'feed'"):
        source.read(0, ["tune"])


def test_a_scored_split_needs_rows_but_training_days_need_none(tmp_path):
    (source,) = write_run(tmp_path, {STUDENT: {0: predictions([0.0], [1])}})
    assert len(source.read(0, ["train"])) == 0
    with pytest.raises(PredictionError, match="split: got no rows of test"):
        source.read(0, ["tune", "test"])
