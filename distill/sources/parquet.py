"""Bring your own data: Parquet files in one folder per day, beside a schema.yaml, become a prepared data set.

    my_data/
      schema.yaml
      date=2026-01-01/anything.parquet      one or more files per day; a plain 2026-01-01/ will do as well
      date=2026-01-02/anything.parquet
      events.parquet                        optional: history from before the first day
      content/image.parquet                 optional: content vectors of items, one file per modality

schema.yaml names the columns (every key but `name`, `domains`, `tasks` and `sparse` may be left out):

    name: my_shop
    domains: [feed, search]                 # surfaces
    verticals: [feed, search]               # those that are scored and may have students; all if left out
    tasks:
      click: {}
      order: {window_ms: 86400000}          # without an order after a day there is none
    sparse:
      user_id: {size: 50000, group: user}   # ids from 0 to 49999
      item_id: {size: 8000, group: item}
      tags: {size: 120, group: item, multi: true}
      device: {size: 4}
    dense: [log_price]
    history: {item: item_id}                # the sparse feature that a user's past is made of
    content:                                # vectors of items, computed elsewhere by any encoder
      image: {width: 64}
    days:                                   # when each day is over; if left out, right after its last row
      - {date: 2026-01-01, end_ms: 1767312000000}
      - {date: 2026-01-02, end_ms: 1767398400000}

Columns of a day's files: `example_id` (unique in the whole data set), `user_id`, `timestamp` (ms), `domain`
(name or index), every sparse feature (integers inside [0, size), lists when multi), every dense feature
(finite), `label_<task>` (0, 1, null = not known), and, if you have it, `matures_<task>` (ms; when the label
became known). Columns that the schema does not name are not read. Text ids are refused: number them first.

Columns of events.parquet: `user_id`, `timestamp`, the history's item, `domain`, and `label_<task>`,
`matures_<task>` where known.

Columns of content/<name>.parquet, one file for each modality under `content`: the history's item (an id inside its
table, each at most once) and `vector` (a list of `width` finite numbers, kept in half precision: scale them to a size
of about 1). An item without a row is missing, and models know it. experiments/examples/fill_content.py makes such a
file. Files of other modalities are not read.

Memory: a row group at a time; a day that is not sorted by (timestamp, example_id) is sorted in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.config import DataConfig
from distill.errors import DataError, nearest
from distill.parquet import ParquetPart
from distill.rows import check_columns, columns_for, maturity_columns
from distill.schema import DayInfo, FeatureSchema
from distill.sources.columns import VECTOR, integers, vectors
from distill.sources.config import ParquetConfig, data_root
from distill.sources.fingerprint import fingerprint
from distill.sources.writer import PreparedWriter

if TYPE_CHECKING:
    from distill.progress import Progress

EVENTS = "events.parquet"
CONTENT = "content"
_ORDER = ["timestamp", "example_id"]


def schema(config: ParquetConfig, data: DataConfig) -> FeatureSchema:
    """The folder's schema.yaml as it stands, for checking an experiment's names; it may name no days.

    Raises:
        DataError: no such file, or one that breaks the form.
    """
    return FeatureSchema.load(data_root(data) / "schema.yaml")


def prepare(config: ParquetConfig, data: DataConfig, folder: Path, progress: Progress) -> None:
    """Write the prepared data set.

    Args:
        config: settings of the source.
        data: `root` is the folder described above.
        folder: where to write.
        progress: shown to the user.

    Raises:
        DataError: a day, file or column is missing, or a value breaks the contract; the message names it.
    """
    root = data_root(data)
    schema = FeatureSchema.load(root / "schema.yaml")
    folders = day_folders(root)
    files = [_open_day(path, schema) for path in folders.values()]
    schema = dataclasses.replace(schema, days=_days(schema, list(folders), files, root))
    rows = sum(sum(part.row_groups) for parts in files for part in parts)
    with (
        PreparedWriter(
            folder, schema, source="parquet", fingerprint=fingerprint("parquet", config, data)
        ) as writer,
        progress.task("write parquet", total=rows, unit="rows") as bar,
    ):
        if (root / EVENTS).is_file():
            add_events(writer, ParquetPart(root / EVENTS))
        add_content(writer, root / CONTENT)
        for day, parts in enumerate(files, start=1):
            for piece in _in_order(parts, schema):
                writer.write_day(day, piece)
                bar.advance(piece.num_rows)


def day_folders(root: Path) -> dict[str, Path]:
    """Folders of days by ISO date, in order.

    Raises:
        DataError: no such folder, one without Parquet files, two of one date.
    """
    found: dict[str, Path] = {}
    for path in sorted(path for path in root.iterdir() if path.is_dir()):
        date = path.name.removeprefix("date=")
        if not _is_date(date):
            continue
        if date in found:
            raise DataError(f"{root}: day {date} has two folders, {found[date].name} and {path.name}")
        if not any(path.glob("*.parquet")):
            raise DataError(
                f"{path}: holds no .parquet file; every day needs rows. Remove the folder or fill it."
            )
        found[date] = path
    if not found:
        raise DataError(f"{root}: the data set is empty: no folder date=YYYY-MM-DD with Parquet files")
    return dict(sorted(found.items()))


def add_events(writer: PreparedWriter, part: ParquetPart) -> None:
    """History events from a file, row group by row group."""
    schema = writer.schema
    needed = ["user_id", "timestamp", schema.item_feature, "domain"]
    check_columns(part.columns, schema, str(part.path), needed)
    optional = [*(f"label_{task}" for task in schema.tasks), *maturity_columns(schema)]
    wanted = needed + [name for name in optional if name in part.columns]
    for group in range(len(part.row_groups)):
        table = _domains_by_index(part.read(wanted, group), schema, part.path)
        user, time, item, domain = (integers(table, name, part.path) for name in needed)
        labels = _by_task(table, "label", schema, -1, part.path)
        writer.add_events(user, time, item, domain, labels, _by_task(table, "matures", schema, 0, part.path))


def add_content(writer: PreparedWriter, folder: Path) -> None:
    """Content vectors from the files of a folder, row group by row group.

    Raises:
        DataError: a file or column is missing, or something else than vectors of the schema's width in it.
    """
    schema = writer.schema
    for name in schema.content:
        path = folder / f"{name}.parquet"
        if not path.is_file():
            there = sorted(other.stem for other in folder.glob("*.parquet"))
            raise DataError(
                f"{path}: no such file; schema.yaml names the modality '{name}'. {nearest(name, there)}".rstrip()
            )
        part = ParquetPart(path)
        check_columns(part.columns, schema, str(path), [schema.item_feature, VECTOR])
        if not sum(part.row_groups):
            raise DataError(f"{path}: holds no vectors. Fill it, or take '{name}' out of schema.yaml.")
        for group in range(len(part.row_groups)):
            table = part.read([schema.item_feature, VECTOR], group)
            item = integers(table, schema.item_feature, path)
            writer.add_content(name, item, vectors(table, item, schema.content[name].width, path))


def _is_date(text: str) -> bool:
    try:
        return len(text) == 10 and not np.isnat(np.datetime64(text, "D"))
    except ValueError:
        return False


def _open_day(folder: Path, schema: FeatureSchema) -> list[ParquetPart]:
    parts = [ParquetPart(path) for path in sorted(folder.glob("*.parquet"))]
    known = [f"{kind}_{task}" for kind in ("label", "matures") for task in schema.tasks]
    for part in parts:
        needed = columns_for(schema, list(schema.sparse), schema.dense)
        check_columns(part.columns, schema, str(part.path), needed)
        for name in part.columns:
            if name.startswith(("label_", "matures_")) and name not in [*known, *needed]:
                raise DataError(
                    f"{part.path}: column '{name}': allowed: {', '.join(known)}. {nearest(name, known)}"
                )
    return parts


def _days(
    schema: FeatureSchema, dates: Sequence[str], files: Sequence[Sequence[ParquetPart]], root: Path
) -> tuple[DayInfo, ...]:
    """The schema's days, which must be the folders; or, if it has none, each over after its last row."""
    if schema.days:
        listed = [str(day.date) for day in schema.days]
        for date in [*listed, *dates]:
            if date not in dates or date not in listed:
                kind = "has no folder" if date in listed else "is not among the schema's days"
                raise DataError(
                    f"{root}: day {date} {kind}. Folders and `days` in schema.yaml must be the same."
                )
        return tuple(DayInfo(str(day.date), day.end_ms) for day in schema.days)
    days: list[DayInfo] = []
    for date, parts in zip(dates, files, strict=True):
        times = [pc.max(part.read(["timestamp"])["timestamp"]).as_py() for part in parts]
        last = max((time for time in times if time is not None), default=0)
        days.append(DayInfo(date, max(last, days[-1].end_ms if days else 0) + 1))
    return tuple(days)


def _in_order(parts: Sequence[ParquetPart], schema: FeatureSchema) -> Iterator[pa.Table]:
    """A day's rows sorted by (timestamp, example_id): as they come when they are, else sorted in memory."""
    keys = pa.concat_tables([part.read(_ORDER) for part in parts])
    pieces = (_read(part, group, schema) for part in parts for group in range(len(part.row_groups)))
    if _is_sorted(keys):
        yield from pieces
    else:
        day = pa.concat_tables(pieces, promote_options="permissive")
        yield day.sort_by([(name, "ascending") for name in _ORDER])


def _is_sorted(keys: pa.Table) -> bool:
    time, example = (keys[name].to_numpy() for name in _ORDER)
    step = np.diff(time)
    return bool(((step > 0) | ((step == 0) & (np.diff(example) >= 0))).all())


def _read(part: ParquetPart, group: int, schema: FeatureSchema) -> pa.Table:
    needed = columns_for(schema, list(schema.sparse), schema.dense)
    optional = [name for name in maturity_columns(schema) if name in part.columns]
    table = part.read([*needed, *optional], group)
    for name in schema.sparse:
        element = table.schema.field(name).type
        element = element.value_type if hasattr(element, "value_type") else element
        if pa.types.is_string(element) or pa.types.is_large_string(element):
            raise DataError(
                f"{part.path}: {name}: got text, allowed: integers from 0 to {schema.sparse[name].size - 1}. "
                "Number the values first, once for all days (pyarrow's dictionary_encode helps)."
            )
    return _domains_by_index(table, schema, part.path)


def _domains_by_index(table: pa.Table, schema: FeatureSchema, path: Path) -> pa.Table:
    column = table["domain"]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return table
    index = pc.index_in(column, value_set=pa.array(schema.domains, column.type))
    if index.null_count:
        name = column.filter(index.is_null())[0].as_py()
        raise DataError(
            f"{path}: domain: got unknown surface '{name}', allowed: {', '.join(schema.domains)}. "
            f"{nearest(name, schema.domains)}"
        )
    return table.set_column(table.column_names.index("domain"), "domain", index)


def _by_task(table: pa.Table, kind: str, schema: FeatureSchema, missing: int, path: Path) -> np.ndarray:
    """Columns `<kind>_<task>` as int64 [E, K]; `missing` where there is no column or no value."""
    values = np.full((table.num_rows, len(schema.tasks)), missing, np.int64)
    for k, task in enumerate(schema.tasks):
        name = f"{kind}_{task}"
        if name in table.column_names:
            filled = table.set_column(
                table.column_names.index(name), name, pc.fill_null(table[name], missing)
            )
            values[:, k] = integers(filled, name, path)
    return values
