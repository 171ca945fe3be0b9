"""A teacher goes on where another run's ended, on later days with more ids."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill.errors import ConfigErrors
from distill.load_config import load_config
from experiments.__main__ import main
from tests.experiments.raw_ids import with_raw_ids
from tests.experiments.tiny_experiment import EXPERIMENT, ITEMS, write_days, write_experiment

MORE = 5
"""New ids."""
OVER = 3
"""Days that the snapshot has seen."""
SNAPSHOT = "teacher/{seed}/snapshots/day-0003.safetensors"


def changes(**teacher: Any) -> dict[str, Any]:
    """A teacher alone, whose rows all but stay as they are; one day is scored."""
    settings = copy.deepcopy(EXPERIMENT["teacher"]) | teacher
    settings["optimizer"]["table_learning_rate"] = 1e-12
    schedule = {"tune_days": [4], "test_days": []}
    return {
        "seeds": [3],
        "students": [],
        "channels": {},
        "floor": False,
        "schedule": schedule,
        "teacher": settings,
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that has ended, and an experiment on later days with new items that starts from it."""
    folder = tmp_path_factory.mktemp("start")
    old = write_experiment(
        folder / "old",
        with_raw_ids(write_days(folder / "days", days=4, rows=300)),
        folder / "cache",
        **changes(),
    )
    assert main(["teacher", str(old), "--quiet"]) == 0
    grown = with_raw_ids(write_days(folder / "grown", days=4, rows=300, before=OVER))
    schema = yaml.safe_load((grown / "schema.yaml").read_text())
    schema["sparse"]["item_id"]["size"] += MORE
    (grown / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    start = str(old.parent / "out" / SNAPSHOT)
    return old, write_experiment(folder / "new", grown, folder / "cache", **changes(start=start))


def test_old_rows_and_moments_are_kept_and_new_ones_begin(files: tuple[Path, Path]) -> None:
    old, new = files
    assert main(["teacher", str(new), "--quiet"]) == 0
    before = load_file(old.parent / "out" / SNAPSHOT.format(seed=3))
    after = load_file(new.parent / "out" / SNAPSHOT.format(seed=3))
    weight, moment = (f"tables.item_id.{part}" for part in ("weight", "momentum"))
    assert len(after[weight]) == len(after[moment]) == ITEMS + MORE
    torch.testing.assert_close(after[weight][:ITEMS], before[weight], rtol=0, atol=1e-9)
    assert (after[moment][:ITEMS] >= before[moment]).all() and before[moment].any()
    assert after[weight][ITEMS:].std() > 0 and not after[moment][ITEMS:].any()
    assert not torch.equal(after["tables.user_id.momentum"], before["tables.user_id.momentum"])


def test_a_missing_start_is_named_with_its_seed(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigErrors, match=r"teacher\.start: got '.*/4/.*'; allowed: an existing file"):
        load_config(files[1], ["seeds=[3,4]"])


def test_a_config_without_start_does_not_speak_of_it(files: tuple[Path, Path]) -> None:
    assert "start: " not in load_config(files[0]).to_yaml()
    assert "start: " in load_config(files[1]).to_yaml()


def test_data_with_fewer_ids_are_refused(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(files[1].parent / "out" / SNAPSHOT)
    later = with_raw_ids(write_days(tmp_path / "days", days=4, rows=300, before=2 * OVER))
    fewer = write_experiment(tmp_path / "fewer", later, tmp_path / "cache", **changes(start=start))
    assert main(["teacher", str(fewer), "--quiet"]) == 2
    assert f"tables.item_id.weight: got {ITEMS + MORE} rows" in capsys.readouterr().err.replace(
        "momentum", "weight"
    )


def test_data_that_number_their_users_anew_are_refused(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = with_raw_ids(write_days(tmp_path / "days", days=4, rows=300, before=OVER))
    first = data / "date=2026-01-04" / "rows.parquet"
    table = pq.read_table(first, partitioning=None)
    place = table.column_names.index("user_id")
    pq.write_table(table.set_column(place, "user_id", table["user_id"].combine_chunks()[::-1]), first)
    start = str(files[0].parent / "out" / SNAPSHOT)
    other = write_experiment(tmp_path / "other", data, tmp_path / "cache", **changes(start=start))
    assert main(["teacher", str(other), "--quiet"]) == 2
    assert "start: user_id: its rows stand for other values" in capsys.readouterr().err


@pytest.mark.parametrize("before", [0, OVER - 1])
def test_days_that_the_start_has_seen_are_refused(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], before: int
) -> None:
    """New days appended to the folder of the earlier run, or a folder that begins with its last day."""
    data = with_raw_ids(write_days(tmp_path / "days", days=5, rows=300, before=before))
    start = str(files[0].parent / "out" / SNAPSHOT)
    again = write_experiment(tmp_path / "again", data, tmp_path / "cache", **changes(start=start))
    assert main(["teacher", str(again), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "teacher.start: got" in said and "trained up to 2026-01-03, allowed" in said
    assert f"before 2026-01-0{before + 1}" in said
    assert not list((again.parent / "out").glob("teacher/*/snapshots/*"))


def test_a_start_trained_anew_does_not_pass_for_the_earlier_one(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshots = (files[0].parent / "out" / SNAPSHOT.format(seed=3)).parent
    shutil.copy(snapshots / "day-0003.safetensors", tmp_path / "start")
    grown = files[0].parent.parent / "grown"
    new = write_experiment(
        tmp_path / "new", grown, tmp_path / "cache", **changes(start=str(tmp_path / "start"))
    )
    assert main(["teacher", str(new), "--quiet"]) == main(["teacher", str(new), "--quiet"]) == 0
    shutil.copy(snapshots / "day-0002.safetensors", tmp_path / "start")
    assert main(["teacher", str(new), "--quiet"]) == 2
    assert "other settings: the file of teacher.architecture or of teacher.start" in capsys.readouterr().err
