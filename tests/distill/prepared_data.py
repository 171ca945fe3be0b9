"""A small prepared data set whose every value is a simple rule of the row, for tests to compute by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.dataset import DataSet
from distill.schema import Content, DayInfo, FeatureSchema, SparseFeature, Task
from distill.sources.writer import PreparedWriter
from distill.stream import DayStream

DAY_MS = 1000
WINDOW_MS = 100
USERS, ITEMS, TAGS = 5, 7, 4
FEATURES = ("item_id", "tags", "user_id")
DENSE = ("length", "price")


def small_schema(days: int = 2) -> FeatureSchema:
    """Two surfaces, two tasks (the second matures late), one multi-valued feature in the middle."""
    return FeatureSchema(
        name="small",
        domains=("feed", "reels"),
        verticals=("feed", "reels"),
        days=tuple(DayInfo(f"2026-01-{day:02d}", day * DAY_MS) for day in range(1, days + 1)),
        tasks={"click": Task("click"), "order": Task("order", WINDOW_MS)},
        sparse={
            "user_id": SparseFeature("user_id", USERS, "user"),
            "tags": SparseFeature("tags", TAGS, "item", multi=True),
            "item_id": SparseFeature("item_id", ITEMS, "item"),
        },
        dense=("price", "length"),
    )


def day_columns(day: int, rows: int = 10) -> dict[str, list]:
    """Row r of a day: user r % 5, item r % 7, surface r % 2, evenly through the day, tags below r % 3."""
    numbers = list(range(rows))
    return {
        "example_id": [day * 100_000 + r for r in numbers],
        "user_id": [r % USERS for r in numbers],
        "timestamp": [(day - 1) * DAY_MS + r * DAY_MS // rows for r in numbers],
        "domain": [r % 2 for r in numbers],
        "tags": [list(range(r % 3)) for r in numbers],
        "item_id": [r % ITEMS for r in numbers],
        "price": [r / 4 for r in numbers],
        "length": [float(-r) for r in numbers],
        "label_click": [int(r % 3 == 0) for r in numbers],
        "label_order": [None if r % 5 == 4 else int(r % 6 == 0) for r in numbers],
    }


def day_table(day: int, rows: int = 10, **changed: Any) -> pa.Table:
    """The day's columns as a table, some of them replaced."""
    columns = day_columns(day, rows) | changed
    columns["tags"] = pa.array(columns["tags"], pa.list_(pa.int64()))
    return pa.table(columns)


def write_small(folder: Path, days: int = 2, rows: int = 10) -> DataSet:
    """Write and open the data set."""
    with PreparedWriter(folder, small_schema(days), source="test", fingerprint="f" * 64) as writer:
        for day in range(1, days + 1):
            writer.write_day(day, day_table(day, rows))
    return DataSet.open(folder)


def write_content(folder: Path) -> DataSet:
    """The data set with content: item i has the image [i, 0.5], but for item 3; nothing has a text but item 6."""
    schema = replace(small_schema(), content={"image": Content("image", 2), "text": Content("text", 1)})
    seen = np.array([0, 1, 2, 4, 5, 6])
    with PreparedWriter(folder, schema, source="test", fingerprint="f" * 64) as writer:
        for day in (1, 2):
            writer.write_day(day, day_table(day))
        writer.add_content("image", seen, np.stack([seen, np.full(6, 0.5)], axis=1))
        writer.add_content("text", np.array([6]), np.array([[-1.0]]))
    return DataSet.open(folder)


def write_one_day(folder: Path, table: pa.Table) -> DataSet:
    """Write and open a data set of this one day."""
    with PreparedWriter(folder, small_schema(1), source="test", fingerprint="f" * 64) as writer:
        writer.write_day(1, table)
    return DataSet.open(folder)


def stream(data: DataSet, day: int = 1, batch_size: int = 4, **options: Any) -> DayStream:
    """A stream of every feature, the multi-valued one in the middle."""
    return DayStream(data, day, batch_size, FEATURES, DENSE, **options)


def tamper(data: DataSet, day: int, changed: Mapping[str, list | None], row_group: int | None = None) -> Path:
    """Replace (or, with None, drop) columns of a day's file behind the writer's back; returns the file."""
    (path,) = data.parts(day)
    table = pq.read_table(path)
    types = table.schema
    for name, values in changed.items():
        place = table.column_names.index(name)
        table = table.remove_column(place)
        if values is not None:
            table = table.add_column(place, name, pa.array(values, types.field(name).type))
    pq.write_table(table, path, row_group_size=row_group)
    return path


def replaced(values: list, at: int, value: object) -> list:
    """A copy of a list with one element changed."""
    return [*values[:at], value, *values[at + 1 :]]


def all_rows(batches: list, name: str) -> np.ndarray:
    """One attribute over all batches."""
    return np.concatenate([getattr(batch, name).numpy() for batch in batches])
