"""Times of a folder of days: their unit, and days that follow each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.errors import DataError
from distill.parquet import ParquetPart
from distill.sources.day_times import check_order, check_times, tell_gaps

HOUR = 3_600_000
NIGHT = 1_767_225_600_000
"""2026-01-01."""


def part_of(path: Path, hours: Sequence[float], **columns: object) -> ParquetPart:
    """A file whose rows came so many hours after the night."""
    times = [NIGHT + int(hour * HOUR) for hour in hours]
    pq.write_table(pa.table({"timestamp": times, **columns}), path)
    return ParquetPart(path)


def order(folder: Path, *days: Sequence[float]) -> None:
    files = [[part_of(folder / f"{place}.parquet", hours)] for place, hours in enumerate(days)]
    check_order([f"2026-01-0{place + 1}" for place in range(len(days))], files, folder)


def test_days_that_follow_each_other(tmp_path: Path) -> None:
    # Rows of an hour around midnight stand on either side.
    order(tmp_path, [9, 12, 24.5], [23.5, 36, 40], [60])


def test_swapped_days_are_refused(tmp_path: Path) -> None:
    message = (
        "day 2026-01-03: got rows around 2026-01-02T12:00, allowed: later ones than those of 2026-01-02, "
    )
    with pytest.raises(DataError, match=f"{message}around 2026-01-03T12:00"):
        order(tmp_path, [9, 12, 20], [50, 60, 70], [30, 36, 40])


def test_a_label_becomes_known_whenever_it_does(tmp_path: Path) -> None:
    known = pa.array([NIGHT + 500 * 24 * HOUR, None], pa.int64())
    check_times(
        part_of(tmp_path / "a.parquet", [9, 12], matures_order=known), "2026-01-01", ["matures_order"]
    )


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (
            pa.array([NIGHT // 1000, None], pa.int64()),
            "matures_order: got 1767225600 to .* allowed: milliseconds",
        ),
        (
            pa.array([NIGHT] * 2, pa.timestamp("ms")),
            r"matures_order: got type timestamp\[ms\], allowed: int64",
        ),
    ],
)
def test_a_label_known_in_another_unit_is_refused(tmp_path: Path, known: pa.Array, message: str) -> None:
    """Seconds would make every label known at once."""
    part = part_of(tmp_path / "a.parquet", [9, 12], matures_order=known)
    with pytest.raises(DataError, match=message):
        check_times(part, "2026-01-01", ["matures_order"])


@pytest.mark.parametrize("kind", [pa.int64(), pa.null()])
def test_a_column_of_nothing_says_nothing(tmp_path: Path, kind: pa.DataType) -> None:
    known = pa.array([None, None], kind)
    check_times(
        part_of(tmp_path / "a.parquet", [9, 12], matures_order=known), "2026-01-01", ["matures_order"]
    )


def test_dates_without_a_folder_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tell_gaps(["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-04"], Path("mine"))
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("mine: no folder between 2026-03-01 and 2026-03-04, which are days 3 and 4")
