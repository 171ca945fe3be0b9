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
from distill.log_files import LogManifest, RepresentationFacts, day_is_logged, read_manifest
from distill.representations import read_representations
from distill.teacher_log import TeacherLog, write_day
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


TAPS = ("user", "penultimate")
DIM = 5
BOUNDS = {"fp16": 2.0**-12, "int8": 0.5 / 127 + 1e-7, "int4": 0.2}
BYTES = {"fp16": 10, "int8": 5, "int4": 3}


def numbers(ids, dim=DIM):
    """A representation for each id, the same whatever the order of the ids."""
    rows = [np.random.default_rng(int(i)).uniform(-1, 1, dim) for i in ids]
    return np.array(rows, np.float32).reshape(-1, dim)


def write_representation(folder, ids=(30, 10, 20), day=9, codec="int8", dim=DIM, taps=TAPS):
    facts = RepresentationFacts(list(taps), dim, [2], codec)
    logits = np.zeros((len(ids), 2), np.float32)
    write_day(folder, np.array(ids), logits, manifest(day=day, representation=facts), numbers(ids, dim))
    return folder / f"day-{day:04d}.parquet"


def open_representations(folder, snapshots=None, taps=()):
    return TeacherLog(folder, TASKS, TASKS, "f" * 64, snapshots or {9: 7}, representation=True, taps=taps)


@pytest.mark.parametrize("codec", BOUNDS)
def test_join_gives_each_example_its_own_representation(tmp_path, codec):
    ids = np.random.default_rng(0).permutation(500)
    write_representation(tmp_path, ids, codec=codec)
    asked = torch.tensor([20, 499, 0, 20])
    found = open_representations(tmp_path).join(asked, 9).representation
    assert found.dtype == torch.float32 and found.shape == (4, DIM)
    np.testing.assert_allclose(found.numpy(), numbers(asked.tolist()), atol=BOUNDS[codec])


@pytest.mark.parametrize("codec", BOUNDS)
def test_representations_of_a_day_are_read_in_order_of_id(tmp_path, codec):
    path = write_representation(tmp_path, range(200, 0, -1), codec=codec)
    found = read_representations(tmp_path, 9)
    assert found.example_id.tolist() == list(range(1, 201))
    assert found.codes.shape == (200, BYTES[codec]) and found.manifest == read_manifest(path)
    np.testing.assert_allclose(found.values(), numbers(range(1, 201)), atol=BOUNDS[codec])
    some = np.array([7, 3, 7])
    assert np.array_equal(found.values(some), found.values()[some])


def test_manifest_says_what_the_representation_is(tmp_path):
    path = write_representation(tmp_path)
    facts = json.loads(path.with_suffix(".json").read_text())["representation"]
    assert facts == {"taps": list(TAPS), "dim": DIM, "prefixes": [2], "codec": "int8", "bytes": 5}
    write_representation(tmp_path, codec="int4")
    facts = json.loads(path.with_suffix(".json").read_text())["representation"]
    assert facts["bytes"] == 3 and np.array(facts["centroids"]).shape == (DIM, 16)
    assert pq.read_schema(path).field("representation").type == pa.binary(3)


def test_without_representation_the_day_is_as_it_always_was(tmp_path):
    path = write(tmp_path, ids=(10, 20, 30))
    plain = {"example_id": np.array([10, 20, 30])}
    plain |= {
        "logit_click": np.array([1, 2, 3], np.float32),
        "logit_conversion": -np.array([1, 2, 3], np.float32),
    }
    pq.write_table(pa.table(plain), tmp_path / "plain.parquet")
    assert path.read_bytes() == (tmp_path / "plain.parquet").read_bytes()
    facts = json.loads(path.with_suffix(".json").read_text())
    names = "teacher checkpoint trained_through day lag data_fingerprint schema tasks rows checksum"
    assert list(facts) == names.split() and (facts["rows"], facts["tasks"]) == (3, list(TASKS))


def test_representation_is_read_when_asked_for_alone(tmp_path):
    write_representation(tmp_path)
    assert open_log(tmp_path).join(torch.tensor([10]), 9).representation is None


def test_no_representation_before_the_first_snapshot(tmp_path):
    write_representation(tmp_path)
    signal = open_representations(tmp_path, {2: None, 9: 7}).join(torch.tensor([1, 2]), 2)
    assert torch.equal(signal.representation, torch.zeros(2, DIM)) and not signal.mask.any()


def test_representation_of_a_log_without_one(tmp_path):
    write(tmp_path)
    message = "day-0009.parquet: representation: got none, allowed: .*Set teacher.representation"
    with pytest.raises(LogError, match=message):
        open_representations(tmp_path)
    with pytest.raises(LogError, match=message):
        read_representations(tmp_path, 9)


def test_tap_that_the_saved_log_lacks(tmp_path):
    write_representation(tmp_path)
    message = "representation.taps: got 'usr', allowed: user, penultimate. Did you mean 'user'?"
    for read in (open_representations(tmp_path, taps=["user"]), read_representations(tmp_path, 9, ["user"])):
        assert read
    with pytest.raises(LogError, match=message):
        open_representations(tmp_path, taps=["penultimate", "usr"])
    with pytest.raises(LogError, match=message):
        read_representations(tmp_path, 9, ["usr"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 4}, "day-0010.parquet: representation.dim: got 4, allowed: 5, as on the first logged day"),
        ({"taps": ["user"]}, r"representation.taps: got \['user'\], allowed: \['user', 'penultimate'\]"),
    ],
)
def test_days_of_different_representations(tmp_path, change, message):
    write_representation(tmp_path)
    write_representation(tmp_path, day=10, **change)
    with pytest.raises(LogError, match=message):
        open_representations(tmp_path, {9: 7, 10: 7}).join(torch.tensor([10]), 10)


def test_a_later_day_without_representation(tmp_path):
    write_representation(tmp_path)
    write_day(tmp_path, np.array([10]), np.zeros((1, 2), np.float32), manifest(day=10))
    with pytest.raises(LogError, match="day-0010.parquet: representation: got none"):
        open_representations(tmp_path, {9: 7, 10: 7}).join(torch.tensor([10]), 10)


def test_representation_without_any_logged_day(tmp_path):
    with pytest.raises(LogError, match=r"representation: got no logged day among \[1, 2\]"):
        open_representations(tmp_path, {1: None, 2: None})


def test_each_day_has_its_own_centroids(tmp_path):
    write_representation(tmp_path, range(100), codec="int4")
    write_representation(tmp_path, range(100, 300), day=10, codec="int4")
    log = open_representations(tmp_path, {9: 7, 10: 7})
    for day, ids in ((9, [3, 99]), (10, [100, 299]), (9, [5, 6])):
        found = log.join(torch.tensor(ids), day).representation
        np.testing.assert_allclose(found.numpy(), numbers(ids), atol=BOUNDS["int4"])
        stored = read_representations(tmp_path, day)
        rows = np.searchsorted(stored.example_id, ids)
        assert np.array_equal(found.numpy(), stored.values(rows))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_representation_is_named(tmp_path, value):
    facts = RepresentationFacts(list(TAPS), DIM, [], "int4")
    values = numbers([4, 5])
    values[1, 2] = value
    with pytest.raises(LogError, match="1 representations are not finite, the first on example_id 5"):
        write_day(tmp_path, np.array([4, 5]), np.zeros((2, 2)), manifest(representation=facts), values)
    assert not list(tmp_path.iterdir())


def test_changed_representations_are_refused(tmp_path):
    path = write_representation(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(LogError, match="checksum"):
        read_representations(tmp_path, 9)


def test_representations_of_a_day_that_is_not_logged(tmp_path):
    with pytest.raises(LogError, match="no day-0003.parquet with its manifest"):
        read_representations(tmp_path, 3)
