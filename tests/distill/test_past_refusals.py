"""Stores of the teacher's past that must not be made, must not be read, or do not exist yet."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill import past_store
from distill.dataset import DataSet
from distill.errors import LogError, UserError
from distill.log_files import RepresentationFacts
from distill.past import PastRequest
from distill.past_store import PastStore, past_is_written, write_past
from tests.distill.full_disk import full_disk
from tests.distill.logged_past import WIDTH, log_rows, representations, write_data, write_log

TWO = {2: 1, 3: 2}
"""Days 2 and 3, each by a snapshot of its own."""
ONE = {2: 1, 3: 1}
NONE = PastRequest(user_events=2, item=True, alignment="none")
ALIGNED = replace(NONE, alignment="procrustes")
DAYS = [2, 3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_data(tmp_path_factory.mktemp("data") / "d", {})


@pytest.fixture
def log(data: DataSet, tmp_path: Path) -> Path:
    """Of one snapshot; stores of it go to log/past."""
    return write_log(tmp_path / "log", data, ONE)


def write(data: DataSet, log: Path, request: PastRequest = NONE, **rotations: np.ndarray) -> PastStore:
    write_past(log / "past", data, log, DAYS, request, {int(name[1:]): r for name, r in rotations.items()})
    return PastStore(log / "past", data, request)


def all_values(store: PastStore) -> list[torch.Tensor]:
    n = 4
    past = store.read(torch.arange(n), np.arange(n), torch.full((n,), 2**50), day=9)
    return [past[name].values for name in ("user", "item")]


def test_two_snapshots_in_one_sequence_are_refused_unless_aligned(data: DataSet, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", data, TWO)
    message = (
        r"alignment: got 'none' with 2 snapshots, trained through day 1 \(0+\), day 2 .*Allowed: procrustes"
    )
    with pytest.raises(LogError, match=message):
        write(data, log)
    assert not past_is_written(log / "past", data, log, DAYS, NONE)
    assert all_values(write(data, log, ALIGNED, _2=np.eye(WIDTH)))[0].shape == (8, WIDTH)


def test_two_checkpoints_of_one_training_day_are_refused_without_alignment(
    data: DataSet, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log", data, {2: 1})
    write_log(log, data, {3: 1}, checkpoint="e" * 64)
    with pytest.raises(LogError, match=r"alignment: got 'none' with 2 snapshots.*eeee"):
        write(data, log)


def test_two_checkpoints_of_one_training_day_are_refused_with_alignment(
    data: DataSet, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log", data, {2: 1})
    write_log(log, data, {3: 1}, checkpoint="e" * 64)
    with pytest.raises(LogError, match=r"alignment: got 'procrustes'.*one snapshot for each day trained"):
        write(data, log, ALIGNED)


def test_a_snapshot_without_rotation_is_refused(data: DataSet, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", data, TWO)
    with pytest.raises(LogError, match=r"alignment: got 'procrustes' without a rotation .* days \[2\]"):
        write(data, log, ALIGNED, _1=np.eye(WIDTH))


@pytest.mark.parametrize("matrix", [np.eye(WIDTH + 1), 2 * np.eye(WIDTH)])
def test_what_is_no_rotation_of_that_width_is_refused(
    data: DataSet, tmp_path: Path, matrix: np.ndarray
) -> None:
    log = write_log(tmp_path / "log", data, TWO)
    with pytest.raises(AssertionError, match="rotation 2"):
        write(data, log, ALIGNED, _2=matrix)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data_fingerprint": "0" * 64}, "data_fingerprint: got 0000.*allowed: ffff"),
        ({"representation": None}, "representation: got none"),
        (
            {"representation": RepresentationFacts(["deep"], WIDTH, [], "int8")},
            r"taps: got \['deep'\], allowed: \['penultimate'\]",
        ),
    ],
)
def test_a_day_that_does_not_belong_is_refused(
    data: DataSet, log: Path, changed: dict[str, Any], message: str
) -> None:
    write_log(log, data, {3: 1}, **changed)
    with pytest.raises(LogError, match=message):
        write(data, log)


def test_a_day_of_another_width_is_refused(data: DataSet, log: Path) -> None:
    ids = np.array([3000, 3001])
    log_rows(log, 3, 1, ids, representations(ids)[:, :3])
    with pytest.raises(LogError, match=r"dim: got 3, allowed: 4"):
        write(data, log)


def test_a_day_that_is_not_logged_is_named(data: DataSet, log: Path) -> None:
    with pytest.raises(LogError, match=r"no day-0004\.parquet"):
        write_past(log / "past", data, log, [2, 3, 4], NONE, {})


def test_examples_that_the_data_set_lacks_are_named(data: DataSet, log: Path) -> None:
    ids = np.array([3000, -1, 9999])
    log_rows(log, 3, 1, ids, representations(np.abs(ids)))
    with pytest.raises(LogError, match="day-0003.*2 foreign ids, the first is -1"):
        write(data, log)
    assert not past_is_written(log / "past", data, log, DAYS, NONE)


def test_planted_leak_examples_of_a_later_day_are_named(data: DataSet, log: Path) -> None:
    ids = np.array([2000, 3000, 3001])
    log_rows(log, 2, 1, ids, representations(ids))
    with pytest.raises(LogError, match="day-0002.*2 ids of later days, the first is 3000"):
        write(data, log)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codec": "int4"}, "codec: got 'int4', allowed: int8, fp16"),
        ({"alignment": "affine"}, "alignment: got 'affine', allowed: procrustes, none"),
        ({"half_life_days": 0.0}, r"half_life_days: got 0\.0, allowed: at least 0\.01"),
    ],
)
def test_requests_that_mean_nothing_are_refused(
    data: DataSet, log: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write(data, log, replace(NONE, **changed))


def test_a_store_that_is_not_written_is_refused_at_the_first_look(data: DataSet, tmp_path: Path) -> None:
    store = PastStore(tmp_path / "past", data, NONE)
    with pytest.raises(LogError, match=r"no complete store in .*past\. Write it again"):
        all_values(store)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alignment": "procrustes"}, "alignment: got a store of none, allowed: procrustes"),
        ({"codec": "fp16"}, "codec: got a store of int8, allowed: fp16"),
        ({"half_life_days": 7.0}, r"half_life_days: got a store of 3\.0, allowed: 7\.0"),
    ],
)
def test_a_store_of_another_request_is_refused(
    data: DataSet, log: Path, changed: dict[str, Any], message: str
) -> None:
    other = replace(NONE, **changed)
    store = PastStore(write(data, log).folder, data, other)
    with pytest.raises(LogError, match=message):
        all_values(store)
    assert not past_is_written(store.folder, data, log, DAYS, other)


def test_a_store_without_a_group_asked_for_is_refused(data: DataSet, log: Path) -> None:
    folder = write(data, log, replace(NONE, item=False)).folder
    with pytest.raises(LogError, match="groups: got a store of user, allowed: user, item"):
        all_values(PastStore(folder, data, NONE))


def test_a_store_of_another_data_set_is_refused(data: DataSet, log: Path) -> None:
    folder, other = write(data, log).folder, replace(data, fingerprint="0" * 64)
    with pytest.raises(LogError, match="data_fingerprint: got a store of ffff.*, allowed: 0000"):
        all_values(PastStore(folder, other, NONE))
    assert not past_is_written(folder, other, log, DAYS, NONE)


def test_a_changed_log_is_refused(data: DataSet, log: Path) -> None:
    folder = write(data, log).folder
    assert past_is_written(folder, data, log, DAYS, NONE)
    ids = np.array([3000])
    log_rows(log, 3, 1, ids, representations(ids))
    with pytest.raises(LogError, match="days: got a store of another log of day 3"):
        all_values(PastStore(folder, data, NONE))
    assert not past_is_written(folder, data, log, DAYS, NONE)


def test_a_log_whose_file_is_damaged_is_refused(data: DataSet, log: Path) -> None:
    path = log / "day-0003.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(LogError, match="checksum"):
        write(data, log)


@pytest.mark.parametrize("days", [[2], [2, 3, 4]])
def test_other_days_are_to_be_written(data: DataSet, log: Path, days: list[int]) -> None:
    folder = write(data, log).folder
    assert past_is_written(folder, data, log, [3, 2], NONE)
    assert not past_is_written(folder, data, log, days, NONE)


def test_another_logs_store_is_to_be_written(data: DataSet, log: Path, tmp_path: Path) -> None:
    folder = write(data, log).folder
    shutil.copytree(log, tmp_path / "other", ignore=shutil.ignore_patterns("past"))
    assert not past_is_written(folder, data, tmp_path / "other", DAYS, NONE)


def test_a_run_folder_may_be_moved(data: DataSet, log: Path, tmp_path: Path) -> None:
    before = all_values(write(data, log))
    moved = log.rename(tmp_path / "elsewhere")
    assert past_is_written(moved / "past", data, moved, DAYS, NONE)
    for values, expected in zip(all_values(PastStore(moved / "past", data, NONE)), before, strict=True):
        assert torch.equal(values, expected)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def shorten(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


@pytest.mark.parametrize("harm", [cut, shorten, Path.unlink])
@pytest.mark.parametrize("name", ["user/codes.npy", "item/time.npy"])
def test_damaged_files_are_refused(data: DataSet, log: Path, name: str, harm: Callable[[Path], None]) -> None:
    folder = write(data, log).folder
    harm(folder / name)
    with pytest.raises(LogError, match=rf"{name}: .*damaged"):
        all_values(PastStore(folder, data, NONE))
    assert not past_is_written(folder, data, log, DAYS, NONE)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_manifest_that_is_none_is_refused(data: DataSet, log: Path, content: str) -> None:
    folder = write(data, log).folder
    (folder / "manifest.json").write_text(content)
    with pytest.raises(LogError, match=r"manifest\.json is no manifest"):
        all_values(PastStore(folder, data, NONE))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_in_the_middle_of_writing_and_started_again(
    data: DataSet, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = files_of(write(data, log).folder)
    facts = json.loads(expected["manifest.json"])
    (log / "past").rename(tmp_path / "undisturbed")

    def killed(days: Any, *args: Any) -> Any:
        """The first day of the items, then the end."""
        yield next(iter(past_store.user_vectors(days)))
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(past_store, "item_means", killed)
            write(data, log)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (log / "past" / "user" / "codes.npy").is_file() and len(files_of(log / "past")) > 4
    assert not past_is_written(log / "past", data, log, DAYS, NONE)
    with pytest.raises(LogError, match="no complete store"):
        all_values(PastStore(log / "past", data, NONE))
    again = files_of(write(data, log).folder)
    assert json.loads(again["manifest.json"]) == facts
    assert again == expected  # and nothing is left of the first attempt


def test_a_store_being_written_anew_does_not_exist(
    data: DataSet, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(data, log)

    def stopped(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(past_store, "item_means", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(data, log)
    assert not past_is_written(log / "past", data, log, DAYS, NONE)


def test_a_full_disk_is_named_and_leaves_no_store(data: DataSet, log: Path) -> None:
    with pytest.raises(UserError, match="the disk is full"), full_disk(300):
        write(data, log)
    assert not past_is_written(log / "past", data, log, DAYS, NONE)
