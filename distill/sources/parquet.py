"""Bring your own data: Parquet files in one folder per day, beside a schema.yaml, become a prepared data set.

    my_data/
      schema.yaml
      date=2026-01-01/anything.parquet      one or more files per day; a plain 2026-01-01/ will do as well
      date=2026-01-02/anything.parquet
      events.parquet                        optional: history from before the first day
      content/image.parquet                 optional: content vectors of items, one file per modality
      vocabulary/item_id.parquet            optional: an earlier vocabulary to go on with

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
became known). Columns that the schema does not name are not read. A log may be exported while windows are open: where
labels are missing for that reason, the other rows whose window is open at the last day's end are not scored either.

Ids that are texts, or whole numbers of any size, become rows of a table where the schema says how
(`distill.vocabulary` has the details):

    sparse:
      user_id: {ids: vocabulary, group: user}              # numbered as they appear, as many rows as the data need
      item_id: {ids: vocabulary, size: 8000, group: item}  # at most 7999 values; room for those of later days
      query: {ids: hash, size: 4096}                       # a stable hash; values with one hash share a row

Row 0 stands for null and, when a student is served, for values that the data never held; nulls alone train it. With
`unknown: false` there is no such row, and both are refused. A value that first appears after the days that a model is
trained on has a row that was never trained, no more. A further day adds values at the end and leaves the rows of old
ones. When the first days are dropped, copy vocabulary/<feature>.parquet of the earlier prepared data set into your
folder, and the rows stay; a teacher is not started from a snapshot whose rows stood for other values. `user_id` in text
must be named under `sparse`, whether models read it or not.

Columns of events.parquet: `user_id`, `timestamp`, the history's item, `domain`, and `label_<task>`,
`matures_<task>` where known.

Columns of content/<name>.parquet, one file for each modality under `content`: the history's item (an id inside its
table, each at most once) and `vector` (a list of `width` finite numbers, kept in half precision: scale them to a size
of about 1). An item without a row is missing, and models know it. experiments/examples/fill_content.py makes such a
file. Files of other modalities are not read.

Memory: a row group at a time, and the vocabularies; a day that is not sorted by (timestamp, example_id) is sorted in
memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
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
from distill.sources.beside_days import add_content, add_events
from distill.sources.columns import domains_by_index
from distill.sources.config import ParquetConfig, data_root
from distill.sources.day_times import check_order, check_times, tell_gaps
from distill.sources.fingerprint import fingerprint
from distill.sources.raw_ids import as_rows, collect, with_sizes
from distill.sources.writer import PreparedWriter
from distill.vocabulary import VOCABULARY, Vocabulary

if TYPE_CHECKING:
    from distill.progress import Progress

EVENTS = "events.parquet"
CONTENT = "content"
_ORDER = ["timestamp", "example_id"]


def schema(config: ParquetConfig, data: DataConfig) -> FeatureSchema:
    """The folder's schema.yaml as it stands, for checking an experiment's names.

    Returns:
        The schema; sizes that the data decide are 1, and days whose ends they decide end after 1, 2, 3... ms.

    Raises:
        DataError: no such file, or one that breaks the form; days that it lists and the folder lacks, or vice versa.
    """
    root = data_root(data)
    schema = FeatureSchema.load(root / "schema.yaml")
    sized = {name: dataclasses.replace(f, size=f.size or 1) for name, f in schema.sparse.items()}
    dates = list(day_folders(root))
    _refuse_other_days(schema, dates, root)
    days = schema.days or tuple(DayInfo(date, end) for end, date in enumerate(dates, start=1))
    return dataclasses.replace(schema, sparse=sized, days=days)


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
    check_order(list(folders), files, root)
    tell_gaps(list(folders), root)
    events = ParquetPart(root / EVENTS) if (root / EVENTS).is_file() else None
    vocabularies = collect(schema, root / VOCABULARY, events, files)
    schema = dataclasses.replace(
        with_sizes(schema, vocabularies), days=_days(schema, list(folders), files, root)
    )
    rows = sum(sum(part.row_groups) for parts in files for part in parts)
    with (
        PreparedWriter(
            folder,
            schema,
            source="parquet",
            fingerprint=fingerprint("parquet", config, data),
            vocabularies=vocabularies,
        ) as writer,
        progress.task("write parquet", total=rows, unit="rows") as bar,
    ):
        if events is not None:
            add_events(writer, events)
        add_content(writer, root / CONTENT)
        for day, parts in enumerate(files, start=1):
            for piece in _in_order(parts, schema, vocabularies):
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
        matures = [name for name in maturity_columns(schema) if name in part.columns]
        check_times(part, folder.name.removeprefix("date="), matures)
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
        _refuse_other_days(schema, dates, root)
        return tuple(DayInfo(str(day.date), day.end_ms) for day in schema.days)
    days: list[DayInfo] = []
    for date, parts in zip(dates, files, strict=True):
        times = [pc.max(part.read(["timestamp"])["timestamp"]).as_py() for part in parts]
        last = max((time for time in times if time is not None), default=0)
        days.append(DayInfo(date, max(last, days[-1].end_ms if days else 0) + 1))
    return tuple(days)


def _refuse_other_days(schema: FeatureSchema, dates: Sequence[str], root: Path) -> None:
    listed = [str(day.date) for day in schema.days]
    for date in [*listed, *dates] if listed else []:
        if date not in dates or date not in listed:
            kind = "has no folder" if date in listed else "is not among the schema's days"
            raise DataError(f"{root}: day {date} {kind}. Folders and `days` in schema.yaml must be the same.")


def _in_order(
    parts: Sequence[ParquetPart], schema: FeatureSchema, vocabularies: Mapping[str, Vocabulary]
) -> Iterator[pa.Table]:
    """A day's rows sorted by (timestamp, example_id): as they come when they are, else sorted in memory."""
    keys = pa.concat_tables([part.read(_ORDER) for part in parts])
    pieces = (
        _read(part, group, schema, vocabularies) for part in parts for group in range(len(part.row_groups))
    )
    if _is_sorted(keys):
        yield from pieces
    else:
        day = pa.concat_tables(pieces, promote_options="permissive")
        yield day.sort_by([(name, "ascending") for name in _ORDER])


def _is_sorted(keys: pa.Table) -> bool:
    time, example = (keys[name].to_numpy() for name in _ORDER)
    step = np.diff(time)
    return bool(((step > 0) | ((step == 0) & (np.diff(example) >= 0))).all())


def _read(
    part: ParquetPart, group: int, schema: FeatureSchema, vocabularies: Mapping[str, Vocabulary]
) -> pa.Table:
    needed = columns_for(schema, list(schema.sparse), schema.dense)
    optional = [name for name in maturity_columns(schema) if name in part.columns]
    table = part.read([*needed, *optional], group)
    _refuse_texts(
        table, [name for name in ("user_id", *schema.sparse) if name not in vocabularies], part.path
    )
    table = as_rows(table, vocabularies, part.path)
    return domains_by_index(table, schema, part.path)


def _refuse_texts(table: pa.Table, names: Sequence[str], path: Path) -> None:
    """Texts in the place of row numbers."""
    for name in names:
        kind = table.schema.field(name).type
        element = kind.value_type if hasattr(kind, "value_type") else kind
        if pa.types.is_string(element) or pa.types.is_large_string(element):
            raise DataError(
                f"{path}: {name}: got text, allowed: row numbers, as nothing else is said in schema.yaml. "
                f"Set `ids: vocabulary` under sparse.{name} there, and its values are numbered."
            )
