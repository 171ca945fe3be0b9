"""The teacher log joins by id and refuses whatever does not fit."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distill.checkpoint import file_hash
from distill.errors import LogError, UserError
from distill.teacher_log import LogManifest, TeacherLog, day_is_logged, write_day
from tests.distill.full_disk import full_disk

TASKS = ("click", "conversion")


def manifest(**change):
    facts: dict[str, Any] = {
        "teacher": "gem",
        "checkpoint": "c" * 64,
        "trained_through": 7,
        "day": 9,
        "lag": 1,
        "data_fingerprint": "f" * 64,
        "schema": "s",
        "tasks": list(TASKS),
        "rows": 0,
    }
    return LogManifest(**(facts | change))


def write(folder, ids=(30, 10, 20), **change):
    logits = np.array([[i / 10, -i / 10] for i in ids], np.float32)
    write_day(folder, np.array(ids), logits, manifest(**change))
    return folder / "day-0009.parquet"


def open_log(folder, snapshots=None, fingerprint="f" * 64, wanted=TASKS):
    return TeacherLog(folder, TASKS, wanted, fingerprint, snapshots or {9: 7})


def test_join_gives_each_example_its_own_logits(tmp_path):
    write(tmp_path)
    signal = open_log(tmp_path).join(torch.tensor([20, 30, 10, 20]), 9)
    assert signal.mask.all()
    assert torch.equal(signal.logits, torch.tensor([[2.0, -2.0], [3.0, -3.0], [1.0, -1.0], [2.0, -2.0]]))


def test_teacher_of_one_task_fills_the_schemas_column(tmp_path):
    write_day(tmp_path, np.array([1]), np.array([[5.0]], np.float32), manifest(tasks=["conversion"]))
    signal = open_log(tmp_path, wanted=("conversion",)).join(torch.tensor([1]), 9)
    assert torch.equal(signal.logits, torch.tensor([[0.0, 5.0]]))


def test_a_day_before_the_first_snapshot_carries_no_signal(tmp_path):
    write(tmp_path)
    signal = open_log(tmp_path, {9: 7, 2: None}).join(torch.tensor([1, 2]), 2)
    assert not signal.mask.any() and signal.logits.shape == (2, 2)


def test_missing_id_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(LogError, match="missing, the first is example_id 99"):
        open_log(tmp_path).join(torch.tensor([10, 99]), 9)


def test_foreign_and_missing_rows_of_a_day_are_named(tmp_path):
    write(tmp_path)
    with pytest.raises(LogError, match="1 missing ids, the first is 40"):
        open_log(tmp_path).check_rows(9, np.array([10, 20, 30, 40]))
    with pytest.raises(LogError, match="1 foreign ids, the first is 30"):
        open_log(tmp_path).check_rows(9, np.array([10, 20]))


def test_duplicate_ids_are_refused_when_written(tmp_path):
    with pytest.raises(LogError, match="stand twice, the first is example_id 7"):
        write(tmp_path, ids=(7, 8, 7))
    assert not list(tmp_path.iterdir())


def test_duplicate_ids_are_refused_when_read(tmp_path):
    path = write(tmp_path)
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]).sort_by("example_id"), path)
    facts = json.loads(path.with_suffix(".json").read_text()) | {"checksum": file_hash(path), "rows": 6}
    path.with_suffix(".json").write_text(json.dumps(facts))
    with pytest.raises(LogError, match="stand twice"):
        open_log(tmp_path).join(torch.tensor([10]), 9)


def test_a_log_of_another_data_set_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(LogError, match="data_fingerprint: got ffff.*allowed: 0000"):
        open_log(tmp_path, fingerprint="0" * 64).join(torch.tensor([10]), 9)


def test_a_stale_log_is_refused(tmp_path):
    write(tmp_path, trained_through=5)
    with pytest.raises(LogError, match="got day 5, allowed: day 7"):
        open_log(tmp_path).join(torch.tensor([10]), 9)


def test_a_snapshot_that_has_seen_the_day_cannot_log_it(tmp_path):
    with pytest.raises(LogError, match="logged before the teacher trains on it"):
        write(tmp_path, trained_through=9)


def test_a_task_the_teacher_lacks_is_named(tmp_path):
    write_day(tmp_path, np.array([1]), np.array([[5.0]], np.float32), manifest(tasks=["click"]))
    with pytest.raises(LogError, match="task: got 'conversion', allowed: click"):
        open_log(tmp_path, wanted=("conversion",)).join(torch.tensor([1]), 9)


def test_non_finite_logits_are_named(tmp_path):
    with pytest.raises(LogError, match="first on example_id 5"):
        write_day(tmp_path, np.array([4, 5]), np.array([[0, 0], [np.nan, 0]], np.float32), manifest())


def test_changed_or_cut_file_is_refused(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(LogError, match="checksum"):
        open_log(tmp_path).join(torch.tensor([10]), 9)


def test_a_day_without_manifest_does_not_exist(tmp_path):
    path = write(tmp_path)
    assert day_is_logged(tmp_path, 9, "c" * 64, "f" * 64)
    path.with_suffix(".json").unlink()
    assert not day_is_logged(tmp_path, 9, "c" * 64, "f" * 64)
    with pytest.raises(LogError, match="no day-0009.parquet with its manifest"):
        open_log(tmp_path).join(torch.tensor([10]), 9)


def test_a_day_whose_file_is_gone_is_to_be_logged_again(tmp_path):
    write(tmp_path).unlink()
    assert not day_is_logged(tmp_path, 9, "c" * 64, "f" * 64)


def test_a_full_disk_leaves_no_half_day(tmp_path):
    write(tmp_path)
    with full_disk(), pytest.raises(UserError, match=r"day-0009\.parquet: the disk is full"):
        write(tmp_path, ids=tuple(range(2000)))
    assert not day_is_logged(tmp_path, 9, "c" * 64, "f" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["day-0009.parquet"]


def test_a_newer_snapshot_makes_the_day_be_logged_again(tmp_path):
    write(tmp_path)
    assert not day_is_logged(tmp_path, 9, "d" * 64, "f" * 64)


def test_no_folder_says_what_to_do(tmp_path):
    with pytest.raises(LogError, match="distill log"):
        open_log(tmp_path / "none")
