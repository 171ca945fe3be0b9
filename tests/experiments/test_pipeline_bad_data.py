"""Data that breaks its contract, given to the real `distill run`: one clear sentence, exit code 2, nothing left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from experiments.__main__ import main
from tests.experiments.tiny_experiment import write_days, write_experiment


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("data") / "mine", days=4, rows=60)


def day_file(data: Path, day: int = 2) -> Path:
    return data / f"date=2026-01-{day:02d}" / "rows.parquet"


def replace(column: str, row: int, value: object) -> Callable[[Path], None]:
    """Change one value of day 2."""

    def change(data: Path) -> None:
        table = pq.read_table(day_file(data), partitioning=None)
        values = table[column].to_pylist()
        values[row] = value
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, pa.array(values)), day_file(data))

    return change


def cut(data: Path) -> None:
    content = day_file(data).read_bytes()
    day_file(data).write_bytes(content[: len(content) // 2])


def spoil(data: Path) -> None:
    """Other bytes in the middle of a column, where only its checksum would tell."""
    table = pq.read_table(day_file(data), partitioning=None)
    pq.write_table(table, day_file(data), write_page_checksum=True)
    content = bytearray(day_file(data).read_bytes())
    content[200:240] = bytes(255 - byte for byte in content[200:240])
    day_file(data).write_bytes(content)


def remove_day(data: Path) -> None:
    shutil.rmtree(day_file(data).parent)


def empty(data: Path) -> None:
    for day in range(1, 5):
        shutil.rmtree(day_file(data, day).parent)


def no_rows(data: Path) -> None:
    pq.write_table(pq.read_table(day_file(data), partitioning=None).slice(0, 0), day_file(data))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "NaN": (
        replace("price", 7, float("nan")),
        "price: got nan at example_id 200007, allowed: finite numbers",
    ),
    "infinity": (replace("price", 0, float("inf")), "price: got inf at example_id 200000"),
    "label": (replace("label_click", 3, 2), "label_click: got 2 at example_id 200003, allowed: 0, 1 or null"),
    "id": (
        replace("item_id", 5, 60),
        "item_id: got id 60 at example_id 200005: outside its table, allowed: 0 to 59",
    ),
    "surface": (replace("domain", 5, "rells"), "got unknown surface 'rells', allowed: feed, reels, stories"),
    "id twice": (replace("example_id", 9, 100_003), "example_id: 1 ids stand twice (100003)"),
    "cut": (cut, "rows.parquet: not readable as Parquet"),
    "spoilt": (spoil, "rows.parquet: not readable as Parquet"),
    "day missing": (remove_day, "day 2026-01-02 has no folder"),
    "day without rows": (no_rows, "days [2] have no rows"),
    "empty": (empty, "the data set is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_refused(
    whole: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = BROKEN[case]
    data = shutil.copytree(whole, tmp_path / "mine")
    change(data)
    config = write_experiment(
        tmp_path / "a", data, tmp_path / "cache", schedule={"tune_days": [4], "test_days": []}
    )
    assert main(["run", str(config)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err and not printed.out
    left = [path for path in tmp_path.rglob("*") if "cache" in path.parts or ".partial" in path.name]
    assert [path for path in left if path.is_file()] == []


def test_status_says_what_was_wrong(whole: Path, tmp_path: Path) -> None:
    data = shutil.copytree(whole, tmp_path / "mine")
    replace("price", 7, np.nan)(data)
    config = write_experiment(
        tmp_path / "a", data, tmp_path / "cache", schedule={"tune_days": [4], "test_days": []}
    )
    main(["run", str(config)])
    status = json.loads((tmp_path / "a" / "out" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("failed", "data") and "price: got nan" in status["error"]


def test_days_that_the_data_do_not_have_are_told_by_validate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the schema lists none, and the folders alone say how many there are."""
    data = write_days(tmp_path / "mine", days=3, rows=20)
    schema = yaml.safe_load((data / "schema.yaml").read_text())
    (data / "schema.yaml").write_text(yaml.safe_dump({k: v for k, v in schema.items() if k != "days"}))
    config = write_experiment(tmp_path / "a", data, tmp_path / "cache", schedule={})
    assert main(["validate", str(config)]) == 2
    said = capsys.readouterr().err
    allowed = "allowed: day 2 to 3, the last day of the data set."
    assert f"schedule.tune_days: got days 9, 10, 11; {allowed} [9, 10, 11] is the default." in said
    assert f"schedule.test_days: got days 12, 13, 14; {allowed}" in said
    assert main(["validate", str(config), "--set", "schedule={tune_days: [3], test_days: []}"]) == 2
    assert (
        "lag: got 1 with the last tune day 3; allowed: at most 0; else no student" in capsys.readouterr().err
    )
