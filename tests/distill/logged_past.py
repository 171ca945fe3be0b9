"""A small data set and a log of representations of it, for tests of the teacher's past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distill.dataset import DataSet
from distill.log_files import LogManifest, RepresentationFacts
from distill.schema import DayInfo
from distill.sources.writer import PreparedWriter
from distill.teacher_log import write_day
from tests.distill.prepared_data import small_schema

HOUR = 3_600_000
DAY = 24 * HOUR
DAYS, ROWS, WIDTH = 5, 60, 4
USERS = ITEMS = 4
"""Of the random rows; the tables have a fifth user and three more items."""
FINGERPRINT = "f" * 64


def write_data(folder: Path, planted: Mapping[int, Sequence[tuple[int, int, int]]]) -> DataSet:
    """Five days of 60 random rows on the full hour, so that many of a user share their millisecond.

    Args:
        folder: to be made.
        planted: by day, further rows: user, item, timestamp. Their ids follow 1000 x day + 500.
    """
    days = tuple(DayInfo(f"2026-01-{day:02d}", day * DAY) for day in range(1, DAYS + 1))
    schema = replace(small_schema(DAYS), days=days)
    with PreparedWriter(folder, schema, source="test", fingerprint=FINGERPRINT) as writer:
        for day in range(1, DAYS + 1):
            writer.write_day(day, _table(day, planted.get(day, ())))
        none = np.full((1, 2), -1)
        # User 4 has a past, but none that was logged.
        one = np.array([4])
        writer.add_events(one, np.array([-HOUR]), np.array([0]), np.array([0]), none, np.zeros((1, 2)))
    return DataSet.open(folder)


def _table(day: int, planted: Sequence[tuple[int, int, int]]) -> pa.Table:
    rng = np.random.default_rng(day)
    user, item, hour = (rng.integers(high, size=ROWS).tolist() for high in (USERS, ITEMS, 24))
    rows = [(1000 * day + r, user[r], item[r], (day - 1) * DAY + hour[r] * HOUR) for r in range(ROWS)]
    rows += [(1000 * day + 500 + r, *row) for r, row in enumerate(planted)]
    ids, users, items, time = np.array(sorted(rows, key=lambda row: (row[3], row[0]))).T
    zeros = np.zeros(len(ids), np.int64)
    return pa.table(
        {
            "example_id": ids,
            "user_id": users,
            "timestamp": time,
            "domain": ids % 2,
            "tags": pa.array([[]] * len(ids), pa.list_(pa.int64())),
            "item_id": items,
            "price": zeros.astype(float),
            "length": zeros.astype(float),
            "label_click": zeros,
            "label_order": zeros,
        }
    )


def rows_of(data: DataSet, days: Sequence[int]) -> dict[str, np.ndarray]:
    """The rows of these days in order, column by column, with `day` and, as `z`, what was logged of each."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("id", "user", "item", "time", "day", "z")}
    for day in days:
        (path,) = data.parts(day)
        table = pa.parquet.read_table(path, partitioning=None)
        ids = table["example_id"].to_numpy()
        sources = {"user": "user_id", "item": "item_id", "time": "timestamp"}
        for name, source in sources.items():
            columns[name].append(table[source].to_numpy())
        columns["id"].append(ids)
        columns["day"].append(np.full(len(ids), day))
        columns["z"].append(representations(ids))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def representations(example_id: np.ndarray) -> np.ndarray:
    """What the teacher says of these examples, float32 [N, WIDTH], whole multiples of 1/127."""
    numbers = [np.random.default_rng(int(i)).integers(-127, 128, WIDTH) for i in example_id]
    return (np.array(numbers).reshape(-1, WIDTH) / 127).astype(np.float32)


def write_log(
    folder: Path, data: DataSet, through: Mapping[int, int], codec: str = "int8", **changed: Any
) -> Path:
    """Log every row of these days.

    Args:
        folder: the log's folder.
        data: the data set.
        through: by day, the day through which its snapshot was trained.
        codec: of the log.
        changed: other facts of the manifest.
    """
    for day, trained in through.items():
        ids = rows_of(data, [day])["id"]
        log_rows(folder, day, trained, ids, representations(ids), codec, **changed)
    return folder


def log_rows(
    folder: Path, day: int, through: int, ids: np.ndarray, z: np.ndarray, codec: str = "int8", **changed: Any
) -> None:
    """Log some rows of a day, without a tap's name or checkpoint to care for."""
    facts: dict[str, Any] = {
        "teacher": "gem",
        "checkpoint": f"{through:064d}",
        "trained_through": through,
        "day": day,
        "lag": day - 1 - through,
        "data_fingerprint": FINGERPRINT,
        "schema": "small",
        "tasks": ["click"],
        "rows": 0,
        "representation": RepresentationFacts(["penultimate"], z.shape[1], [], codec),
    }
    manifest = LogManifest(**(facts | changed))
    logits = np.zeros((len(ids), 1), np.float32)
    write_day(folder, ids, logits, manifest, None if manifest.representation is None else z)
