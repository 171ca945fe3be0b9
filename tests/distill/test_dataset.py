"""Opening a prepared data set, making it once, and counting its labels."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill import registry
from distill.config import DataConfig
from distill.dataset import DataSet, prepare
from distill.errors import DataError, UserError
from distill.progress import NoProgress, Progress
from distill.schema import Task
from distill.sources.config import SourceConfig
from distill.sources.fingerprint import fingerprint
from distill.sources.writer import PreparedWriter
from tests.distill.prepared_data import day_table, small_schema, write_one_day, write_small


@dataclass
class RowsConfig(SourceConfig):
    """A source for tests: writes `rows` rows a day, and a line into its root for each time it is run."""

    rows: int = 10

    def files(self, data: DataConfig) -> list[Path]:
        return [Path(data.root or "") / "content.txt"]


def make_rows(config: RowsConfig, data: DataConfig, folder: Path, progress: Progress) -> None:
    with (Path(data.root or "") / "runs.txt").open("a") as runs:
        runs.write("run\n")
    digest = fingerprint("rows", config, data)
    with PreparedWriter(folder, small_schema(1), source="rows", fingerprint=digest) as writer:
        writer.write_day(1, day_table(1, config.rows))


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry of its own that knows the source `rows`."""
    own = registry.Registry("source")
    own.add("rows", RowsConfig, f"{__name__}:make_rows", "rows for tests")
    monkeypatch.setattr("distill.dataset.SOURCES", own)
    yield


@pytest.fixture
def config(tmp_path: Path, sources: None) -> DataConfig:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "content.txt").write_text("one")
    return DataConfig(source="rows", root=str(tmp_path / "root"), cache=str(tmp_path / "cache"))


def runs(config: DataConfig) -> int:
    return len((Path(config.root or "") / "runs.txt").read_text().splitlines())


# Opening


def test_open_gives_what_was_written(tmp_path: Path) -> None:
    data = write_small(tmp_path / "d", days=3)
    assert data.schema == small_schema(3)
    assert (data.rows, data.rows_per_day) == (30, {1: 10, 2: 10, 3: 10})
    assert (data.source, data.fingerprint) == ("test", "f" * 64)


def test_a_pickled_data_set_is_equal(tmp_path: Path) -> None:
    data = write_small(tmp_path / "d")
    assert pickle.loads(pickle.dumps(data)) == data


def test_folder_without_a_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: no manifest\.json"):
        DataSet.open(tmp_path / "nothing")


def test_missing_day_is_named(tmp_path: Path) -> None:
    data = write_small(tmp_path / "d")
    data.parts(2)[0].unlink()
    with pytest.raises(DataError, match=r"day 2 \(2026-01-02\) is missing"):
        DataSet.open(data.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows_per_day": {"1": 0, "2": 0}}, "the data set is empty"),
        ({"rows_per_day": {}}, "rows_per_day missing or empty"),
        ({"complete": False}, "complete missing or empty"),
        ({"fingerprint": ""}, "fingerprint missing or empty"),
    ],
)
def test_manifest_that_says_too_little_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write_small(tmp_path / "d").folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        DataSet.open(tmp_path / "d")


def test_manifest_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (write_small(tmp_path / "d").folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: is not JSON"):
        DataSet.open(tmp_path / "d")


# Labels


def test_outcomes_are_final_labels_in_order(tmp_path: Path) -> None:
    outcomes = write_small(tmp_path / "d").outcomes(2)
    assert outcomes.example_id.tolist() == list(range(200_000, 200_010))
    assert outcomes.domain.tolist() == [0, 1] * 5
    assert outcomes.labels[:, 0].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert outcomes.labels[:, 1].tolist() == [1, 0, 0, 0, -1, 0, 1, 0, 0, -1]
    assert outcomes.matured[:, 1].tolist() == [True] * 4 + [False] + [True] * 4 + [False]


def test_planted_leak_a_late_label_is_final_but_not_matured(tmp_path: Path) -> None:
    late = day_table(1, timestamp=[*range(0, 800, 100), 900, 901], label_order=[1] * 10)
    outcomes = write_one_day(tmp_path / "d", late).outcomes(1)
    assert outcomes.labels[:, 1].tolist() == [1] * 10
    assert outcomes.matured[:, 1].tolist() == [True] * 9 + [False]


LATE = [*range(0, 800, 100), 850, 950, 960, 970]
"""Of twelve rows; the windows of the last three are open at the day's end, 1000."""


def orders_of(folder: Path, label_order: list[int | None]) -> DataSet:
    """One day; orders are told within 100 ms."""
    return write_one_day(folder, day_table(1, 12, timestamp=LATE, label_order=label_order))


def test_rows_whose_window_was_open_when_the_log_was_exported_are_unknown_whatever_their_label(
    tmp_path: Path,
) -> None:
    """The order that is there already is not scored either: beside it the rows without one are missing."""
    outcomes = orders_of(tmp_path / "d", [None, *[0] * 7, 1, 1, None, 0]).outcomes(1)
    assert outcomes.labels[:, 1].tolist() == [-1, *[0] * 7, 1, -1, -1, -1]
    assert outcomes.matured[:, 1].tolist() == [False] + [True] * 8 + [False] * 3
    assert outcomes.labels[:, 0].tolist() == [1, 0, 0] * 4


def test_a_log_exported_when_all_windows_had_closed_keeps_its_labels(tmp_path: Path) -> None:
    labels = [None, *[0] * 7, 1, 1, 1, 0]
    assert orders_of(tmp_path / "d", labels).outcomes(1).labels[:, 1].tolist() == [-1, *labels[1:]]


def test_the_rate_of_a_log_exported_while_windows_are_open_is_that_of_the_closed_ones(tmp_path: Path) -> None:
    """Of 9 rows whose window has closed 1 of feed and 2 of reels have an order: rates of 1/5 and 2/4."""
    data = orders_of(tmp_path / "d", [0, 1, 0, 1, 0, 0, 1, 0, 0, 1, None, 1])
    assert data.base_rates([1])["order"].tolist() == [1 / 5, 2 / 4]


def test_a_window_longer_than_a_day_may_be_open_on_two_days(tmp_path: Path) -> None:
    """Days end at 1000 and 2000; with a window of 1500 that of a row shown at 600 closes at 2100."""
    schema = replace(small_schema(), tasks={"click": Task("click"), "order": Task("order", 1500)})
    with PreparedWriter(tmp_path / "d", schema, source="test", fingerprint="f" * 64) as writer:
        for day in (1, 2):
            writer.write_day(day, day_table(day, label_order=[0, 1, 0, 0, 0, 0, 1, 0, None, 0]))
    data = DataSet.open(tmp_path / "d")
    assert data.outcomes(1).labels[:, 1].tolist() == [0, 1, 0, 0, 0, 0, -1, -1, -1, -1]
    assert data.outcomes(2).labels[:, 1].tolist() == [-1] * 10


def test_label_counts_by_surface_and_task(tmp_path: Path) -> None:
    positives, known = write_small(tmp_path / "d").label_counts([1, 2])
    # Each day: clicks in rows 0, 6 (feed), 3, 9 (reels); orders in 0, 6; unknown of 4 (feed), 9 (reels).
    assert positives.tolist() == [[4, 4], [4, 0]]
    assert known.tolist() == [[10, 8], [10, 8]]


def test_base_rates_of_final_and_of_matured_labels(tmp_path: Path) -> None:
    late = day_table(1, timestamp=[*range(0, 800, 100), 900, 901], label_order=[0] * 9 + [1])
    data = write_one_day(tmp_path / "d", late)
    assert data.base_rates([1])["click"].tolist() == [0.4, 0.4]
    assert data.base_rates([1])["order"].tolist() == [0.0, 0.2]
    assert data.base_rates([1], matured=True)["order"].tolist() == [0.0, 0.0]


def test_surface_without_labels_has_no_rate(tmp_path: Path) -> None:
    data = write_one_day(tmp_path / "d", day_table(1, domain=[0] * 10))
    np.testing.assert_array_equal(data.base_rates([1])["click"], [0.4, np.nan])


# Making it once


def test_prepared_once_then_taken_from_the_cache(config: DataConfig) -> None:
    first = prepare(config, NoProgress())
    assert first.folder == Path(config.cache) / f"rows-{first.fingerprint[:12]}"
    assert prepare(config, NoProgress()) == first
    assert runs(config) == 1


def test_other_options_are_another_data_set(config: DataConfig) -> None:
    first = prepare(config, NoProgress())
    config.options = {"rows": 20}
    assert prepare(config, NoProgress()).rows == 20
    assert DataSet.open(first.folder).rows == 10


def test_changed_file_is_another_data_set(config: DataConfig) -> None:
    first = prepare(config, NoProgress())
    (Path(config.root or "") / "content.txt").write_text("two")
    assert prepare(config, NoProgress()).fingerprint != first.fingerprint
    assert runs(config) == 2


def test_fingerprint_is_of_content_not_of_place(config: DataConfig, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "content.txt").write_text("one")
    moved = DataConfig(source="rows", root=str(copy), cache="elsewhere")
    assert fingerprint("rows", RowsConfig(), moved) == fingerprint("rows", RowsConfig(), config)


def test_prehistory_is_part_of_the_fingerprint(config: DataConfig) -> None:
    without = fingerprint("rows", RowsConfig(), config)
    config.prehistory = True
    assert fingerprint("rows", RowsConfig(), config) != without


def test_two_processes_prepare_at_once(config: DataConfig) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=prepare, args=(config, NoProgress())) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name.split("-")[0] for path in Path(config.cache).iterdir()] == ["rows"]
    assert prepare(config, NoProgress()).outcomes(1).example_id.tolist() == list(range(100_000, 100_010))


def test_unknown_source_is_refused_with_the_nearest(config: DataConfig) -> None:
    config.source = "row"
    with pytest.raises(UserError, match=r"source: got 'row', .*Did you mean 'rows'"):
        prepare(config, NoProgress())


def test_cached_folder_of_other_content_is_refused(config: DataConfig) -> None:
    path = prepare(config, NoProgress()).folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 64}))
    with pytest.raises(DataError, match="Remove that folder"):
        prepare(config, NoProgress())
