"""Times in a folder of days: whole milliseconds near their date, and days that follow each other.

What goes wrong here goes wrong silently: seconds would leave days and order as they are, and make every age and every
window a thousandth of itself; days out of order would let a model learn from rows that come after those it is scored
on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.errors import DataError
from distill.parquet import ParquetPart

YEAR_MS = 366 * 86_400_000

_LOG = logging.getLogger(__name__)


def check_times(part: ParquetPart, date: str, matures: Sequence[str]) -> None:
    """Refuse times in another unit.

    Args:
        part: a file of a day.
        date: of the day.
        matures: names of the columns that say when a label became known, those that the file has; nulls say nothing,
            and a label may become known long after its day.

    Raises:
        DataError: names the column and what it holds.
    """
    night = int(np.datetime64(date, "ms").astype(np.int64))
    for name in ("timestamp", *matures):
        times = part.read([name])[name]
        # Floats are what pandas makes of times some of which are missing.
        missing = name != "timestamp" and (pa.types.is_null(times.type) or pa.types.is_floating(times.type))
        if not (pa.types.is_integer(times.type) or missing):
            raise DataError(
                f"{part.path}: {name}: got type {times.type}, allowed: int64, milliseconds since 1970. Convert it."
            )
        first, last = pc.min_max(times).as_py().values()
        late = name == "timestamp" and last is not None and last > night + YEAR_MS
        if first is not None and (first < night - YEAR_MS or late):
            raise DataError(
                f"{part.path}: {name}: got {first} to {last}, allowed: milliseconds since 1970, within a year of "
                f"{date} ({night}). Multiply seconds by 1000, divide microseconds by 1000."
            )


def check_order(dates: Sequence[str], files: Sequence[Sequence[ParquetPart]], root: Path) -> None:
    """Refuse days that do not follow each other. Around midnight rows of two days may overlap: their middles tell.

    Args:
        dates: of the days, in order.
        files: of each day.
        root: the folder, for messages.

    Raises:
        DataError: the middle row of a day lies before that of the day before it.
    """
    before = -np.inf
    for place, parts in enumerate(files):
        times = np.concatenate([part.read(["timestamp"])["timestamp"].to_numpy() for part in parts])
        middle = float(np.median(times)) if len(times) else before
        if middle < before:
            raise DataError(
                f"{root}: day {dates[place]}: got rows around {_shown(middle)}, allowed: later ones than those of "
                f"{dates[place - 1]}, around {_shown(before)}. Rows belong into the folder of their date"
            )
        before = middle


def tell_gaps(dates: Sequence[str], root: Path) -> None:
    """Warn of dates without a folder: days are numbered by the folders that are there.

    Args:
        dates: of the days, in order.
        root: the folder.
    """
    days = np.array(dates, "datetime64[D]")
    for place in np.flatnonzero(np.diff(days) > np.timedelta64(1, "D")).tolist():
        _LOG.warning(
            "%s: no folder between %s and %s, which are days %d and %d: days are numbered by the folders there are",
            *(root, dates[place], dates[place + 1], place + 1, place + 2),
        )


def _shown(time_ms: float) -> str:
    return str(np.datetime64(round(time_ms), "ms"))[:16]
