"""KuaiRand-Pure, standard log: the official files become a prepared data set.

Reads the log files that are there, in the order of their names: an `example_id` is the 0-based number of its
    data line over all of them. Of rows with equal (user_id, video_id, time_ms) the first is kept. Days are
    the distinct `date`s, order is by `time_ms`.

Nothing that is only known after the exposure is read but the two labels: no play, profile or comment time, no
    other `is_*`, and no `hourmin`, which is stamped after the exposure. The hour comes from `time_ms`.

Memory: seven integers per row of the log; features are looked up piece by piece.

Source: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos",
    CIKM 2022.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from distill.config import DataConfig
from distill.errors import DataError
from distill.parquet import ParquetPart
from distill.schema import DayInfo, FeatureSchema, SparseFeature, Task
from distill.sources.config import (
    KUAIRAND_LOGS,
    KUAIRAND_PREHISTORY,
    KUAIRAND_USERS,
    KUAIRAND_VIDEOS,
    KuaiRandConfig,
    data_root,
)
from distill.sources.fingerprint import fingerprint
from distill.sources.kuairand_features import (
    AGE_EDGES_DAYS,
    MILLISECONDS_PER_DAY,
    USER_ATTRIBUTES,
    UTC_OFFSET_MS,
    VIDEO_ATTRIBUTES,
    Attributes,
    Videos,
    read_csv,
    read_users,
    read_videos,
)
from distill.sources.writer import ROW_GROUP, PreparedWriter

if TYPE_CHECKING:
    from distill.progress import Progress

TABS = tuple(str(tab) for tab in range(15))
VERTICALS = ("1", "0", "4", "6", "2")
LOG_COLUMNS = ("user_id", "video_id", "date", "time_ms", "is_click", "long_view", "tab")
# The file of events from before the log does not say where they were seen; the largest surface stands in.
PREHISTORY_TAB = 1
PREHISTORY_STEP_MS = 1000
PREHISTORY_END = 20220425

Log = dict[str, np.ndarray]


def prepare(config: KuaiRandConfig, data: DataConfig, folder: Path, progress: Progress) -> None:
    """Write the prepared data set.

    Args:
        config: settings of the source.
        data: `root` is the folder of the official files; `prehistory` adds the events from before 25 April.
        folder: where to write.
        progress: shown to the user.

    Raises:
        DataError: a file or column is missing or damaged, a surface is unknown, a label is none.
    """
    root = data_root(data)
    users, videos = read_users(root / KUAIRAND_USERS), read_videos(root / KUAIRAND_VIDEOS)
    log = read_log([path for path in config.files(data) if path.name in KUAIRAND_LOGS], progress)
    schema = build_schema(log, users, videos)
    digest = fingerprint("kuairand", config, data)
    dates = np.unique(log["date"])
    with (
        PreparedWriter(folder, schema, source="kuairand", fingerprint=digest) as writer,
        progress.task("write kuairand", total=len(log["date"]), unit="rows") as bar,
    ):
        if data.prehistory:
            add_prehistory(writer, root / KUAIRAND_PREHISTORY, log)
        bounds = np.searchsorted(log["date"], dates, side="right")
        for day, (start, stop) in enumerate(zip([0, *bounds], bounds, strict=False), start=1):
            for first in range(start, stop, ROW_GROUP):
                part = slice(first, min(first + ROW_GROUP, stop))
                writer.write_day(day, features({name: log[name][part] for name in log}, users, videos))
                bar.advance(part.stop - part.start)


def read_log(paths: list[Path], progress: Progress) -> Log:
    """The log without repeated rows, sorted by (date, time_ms, example_id).

    Args:
        paths: log files in the order of their names.
        progress: shown to the user.

    Returns:
        int64 columns [R]: those of `LOG_COLUMNS` and `example_id`.
    """
    types = dict.fromkeys(LOG_COLUMNS, pa.int64())
    pieces: list[pa.RecordBatch] = []
    with progress.task("read kuairand", total=None, unit="rows") as bar:
        for path in paths:
            for piece in read_csv(path, types):
                pieces.append(piece)
                bar.advance(piece.num_rows)
    if not sum(piece.num_rows for piece in pieces):
        raise DataError(f"{paths[0].parent}: the log is empty: {', '.join(path.name for path in paths)}")
    table = pa.Table.from_batches(pieces)
    for name in LOG_COLUMNS:
        if table[name].null_count:
            raise DataError(
                f"{paths[0].parent}: {name}: {table[name].null_count} values are missing in the log"
            )
    log = {name: table[name].to_numpy() for name in LOG_COLUMNS}
    log["example_id"] = np.arange(table.num_rows)
    _check_tabs(log)
    kept = _first_of_each(log["user_id"], log["video_id"], log["time_ms"])
    order = kept[np.lexsort((kept, log["time_ms"][kept], log["date"][kept]))]
    return {name: column[order] for name, column in log.items()}


def schema(config: KuaiRandConfig, data: DataConfig) -> FeatureSchema:
    """What is known before any file is read, for checking an experiment's names.

    Returns:
        The schema with every name; sizes that the files decide are 1, and there are no days yet.
    """
    names = ("user_id", "video_id", *VIDEO_ATTRIBUTES, "duration", "tags", *USER_ATTRIBUTES)
    return _schema(dict.fromkeys(names, 1), days=())


def build_schema(log: Log, users: Attributes, videos: Videos) -> FeatureSchema:
    """The schema of a log with these users and videos; ids are the files' own."""
    sizes = {"user_id": _size(users, log["user_id"]), "video_id": _size(videos.attributes, log["video_id"])}
    sizes |= {"tags": videos.tag_size, **videos.attributes.sizes, **users.sizes}
    return _schema(sizes, _days(log))


def _schema(sizes: dict[str, int], days: tuple[DayInfo, ...]) -> FeatureSchema:
    sparse = [
        SparseFeature("user_id", sizes["user_id"], "user"),
        SparseFeature("video_id", sizes["video_id"], "item"),
        *(SparseFeature(name, sizes[name], "item") for name in (*VIDEO_ATTRIBUTES, "duration")),
        SparseFeature("tags", sizes["tags"], "item", multi=True),
        SparseFeature("age", len(AGE_EDGES_DAYS) + 2, "context"),
        SparseFeature("tab", len(TABS), "context"),
        SparseFeature("hour", 24, "context"),
        *(SparseFeature(name, sizes[name], "user") for name in USER_ATTRIBUTES),
    ]
    return FeatureSchema(
        name="kuairand_pure",
        domains=TABS,
        verticals=VERTICALS,
        days=days,
        tasks={"click": Task("click"), "conversion": Task("conversion")},
        sparse={feature.name: feature for feature in sparse},
        dense=("log_duration",),
        item_feature="video_id",
    )


def features(piece: Log, users: Attributes, videos: Videos) -> pa.Table:
    """Rows of the prepared form."""
    user, video, time = piece["user_id"], piece["video_id"], piece["time_ms"]
    return pa.table(
        {
            "example_id": piece["example_id"],
            "user_id": user,
            "timestamp": time,
            "domain": piece["tab"],
            "video_id": video,
            **{name: videos.attributes.of(name, video) for name in videos.attributes.sizes},
            "tags": videos.tags(video),
            "age": videos.age_bucket(video, time),
            "tab": piece["tab"],
            "hour": (time + UTC_OFFSET_MS) // 3_600_000 % 24,
            **{name: users.of(name, user) for name in users.sizes},
            "log_duration": videos.log_duration[np.minimum(video, len(videos.log_duration) - 1)],
            "label_click": piece["is_click"],
            "label_conversion": piece["is_click"] * piece["long_view"],
        }
    )


def add_prehistory(writer: PreparedWriter, path: Path, log: Log) -> None:
    """Events from before the log: no times (set a second apart before the first row), no labels, no surface.

    Raises:
        DataError: the file is missing or damaged, or the log begins before the file ends: its events would
            then come from the log's own future.
    """
    first = int(log["time_ms"].min())
    if log["date"].min() < PREHISTORY_END:
        raise DataError(
            f"data.prehistory: {path.name} holds events up to 24 April 2022, but the log begins before "
            "25 April. Set data.prehistory to false, or leave the first log file out."
        )
    table = ParquetPart(path).read(["user_id", "video_ids"])
    lists = table["video_ids"].combine_chunks()
    lengths = lists.value_lengths().to_numpy()
    user = np.repeat(table["user_id"].to_numpy(), lengths)
    # The last event of each user lies one step before the first row, the others before that.
    steps_back = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(user))
    time = first - steps_back * PREHISTORY_STEP_MS
    labels = np.full((len(user), 2), -1, np.int8)
    tab = np.full(len(user), PREHISTORY_TAB)
    writer.add_events(user, time, lists.flatten().to_numpy(), tab, labels, np.zeros(labels.shape, np.int64))


def _check_tabs(log: Log) -> None:
    wrong = np.flatnonzero((log["tab"] < 0) | (log["tab"] >= len(TABS)))
    if len(wrong):
        raise DataError(
            f"tab: got {log['tab'][wrong[0]]} on data line {wrong[0]}, allowed: 0 to {len(TABS) - 1}"
        )


def _first_of_each(*keys: np.ndarray) -> np.ndarray:
    """Positions of the first row of every distinct combination, ascending."""
    order = np.lexsort(keys)
    new = np.zeros(len(order), bool)
    new[:1] = True
    for key in keys:
        new[1:] |= np.diff(key[order]) != 0
    return np.sort(order[new])


def _size(attributes: Attributes, ids: np.ndarray) -> int:
    """Ids in the file, and those that only the log knows."""
    in_file = len(next(iter(attributes.ids.values()))) - 1
    return max(in_file, int(ids.max()) + 1)


def _days(log: Log) -> tuple[DayInfo, ...]:
    """Days by `date`. A day ends at midnight in China, or after its last row if that is later."""
    days: list[DayInfo] = []
    for number in np.unique(log["date"]):
        text = str(number)
        date = f"{text[:4]}-{text[4:6]}-{text[6:]}"
        midnight = int(np.datetime64(date, "ms").astype(np.int64)) + MILLISECONDS_PER_DAY - UTC_OFFSET_MS
        last = int(log["time_ms"][log["date"] == number].max())
        days.append(DayInfo(date, max(midnight, last + 1, days[-1].end_ms + 1 if days else 0)))
    return tuple(days)
