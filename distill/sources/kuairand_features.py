"""Features of KuaiRand's users and videos: vocabularies from the feature files, 0 for missing or unknown.

The vocabularies are not kept: ids of users and videos are the files' own, their attributes are looked up by id, and a
served student is asked with rows.

Shape letters: U users, V videos, R rows, A attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from distill.errors import DataError, nearest

MILLISECONDS_PER_DAY = 86_400_000
UTC_OFFSET_MS = 8 * 3_600_000

RANGES = ("follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range")
USER_ATTRIBUTES = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    *RANGES,
    *(f"onehot_feat{i}" for i in range(18)),
)
VIDEO_ATTRIBUTES = ("author_id", "music_id", "video_type", "upload_type")
AGE_EDGES_DAYS = (1, 3, 7, 14, 30, 60, 120, 365)
DURATION_EDGES_S = (5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)


@dataclass(frozen=True)
class Attributes:
    """Categorical attributes by id; the row after the last id stands for ids that the file lacks.

    Attributes:
        sizes: attribute to its vocabulary's size, the 0 for missing included.
        ids: attribute to int64 [ids + 1].
    """

    sizes: dict[str, int]
    ids: dict[str, np.ndarray]

    def of(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The attribute of these users or videos, int64 [R]."""
        table = self.ids[name]
        return table[np.minimum(rows, len(table) - 1)]


@dataclass(frozen=True)
class Videos:
    """What the feature file says about videos.

    Attributes:
        attributes: author, music, kinds, and the duration's bucket.
        log_duration: float32 [V + 1], log(1 + seconds), 0 where missing.
        uploaded: int64 [V + 1], days since 1970 in China's time zone, -1 where missing.
        tag_offsets: int64 [V + 2], tag_ids: int64, tags of video v at tag_offsets[v]:tag_offsets[v + 1].
        tag_size: the tags' vocabulary's size.
    """

    attributes: Attributes
    log_duration: np.ndarray
    uploaded: np.ndarray
    tag_offsets: np.ndarray
    tag_ids: np.ndarray
    tag_size: int

    def age_bucket(self, videos: np.ndarray, time_ms: np.ndarray) -> np.ndarray:
        """Bucket of the days between upload and exposure, int64 [R]; 0 where the upload's date is missing."""
        uploaded = self.uploaded[np.minimum(videos, len(self.uploaded) - 1)]
        age = (time_ms + UTC_OFFSET_MS) // MILLISECONDS_PER_DAY - uploaded
        return np.where(uploaded < 0, 0, np.digitize(age, AGE_EDGES_DAYS) + 1)

    def tags(self, videos: np.ndarray) -> pa.ListArray:
        """Tags of these videos, list<int64> [R]; [0] where there are none."""
        rows = np.minimum(videos, len(self.tag_offsets) - 2)
        start, stop = self.tag_offsets[rows], self.tag_offsets[rows + 1]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(stop - start, out=offsets[1:])
        index = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], stop - start)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(self.tag_ids[index]))


def read_csv(path: Path, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Some columns of a CSV file, piece by piece.

    Args:
        path: the file.
        types: columns to read; no other column is looked at.

    Raises:
        DataError: the file or a column is missing, or a value does not fit its type.
    """
    try:
        with csv.open_csv(path) as file:
            header = file.schema.names
        for column in types:
            if column not in header:
                raise DataError(f"{path}: column '{column}' is missing. {nearest(column, header)}")
        convert = csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            strings_can_be_null=True,
            null_values=["", "nan", "NaN"],
        )
        with csv.open_csv(path, convert_options=convert) as file:
            yield from file
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not readable as KuaiRand's CSV ({error}). Unpack the archive again."
        ) from error


def read_users(path: Path) -> Attributes:
    """Read `user_features_pure.csv`; counts enter as the ranges that the file gives."""
    types = {"user_id": pa.int64(), **dict.fromkeys(USER_ATTRIBUTES, pa.string())}
    table = pa.Table.from_batches(read_csv(path, types))
    return _attributes(_ids(table["user_id"], path), {name: table[name] for name in USER_ATTRIBUTES})


def read_videos(path: Path) -> Videos:
    """Read `video_features_basic_pure.csv`."""
    types = {
        "video_id": pa.int64(),
        "upload_dt": pa.date32(),
        "video_duration": pa.float64(),
        "tag": pa.string(),
    }
    table = pa.Table.from_batches(read_csv(path, types | dict.fromkeys(VIDEO_ATTRIBUTES, pa.string())))
    videos = _ids(table["video_id"], path)
    size = int(videos.max()) + 2
    seconds = np.zeros(size)
    seconds[videos] = pc.fill_null(table["video_duration"], 0).to_numpy() / 1000
    uploaded = np.full(size, -1, np.int64)
    uploaded[videos] = pc.fill_null(table["upload_dt"].cast(pa.int32()), -1).to_numpy()
    attributes = _attributes(videos, {name: table[name] for name in VIDEO_ATTRIBUTES})
    attributes.ids["duration"] = np.where(seconds > 0, np.digitize(seconds, DURATION_EDGES_S) + 1, 0)
    attributes.sizes["duration"] = len(DURATION_EDGES_S) + 2
    tags = _tags(videos, table["tag"], size)
    return Videos(attributes, np.log1p(seconds).astype(np.float32), uploaded, *tags)


def vocabulary(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, int]:
    """Number the distinct values from 1 in sorted order.

    Returns:
        Numbers int64 [n], 0 for null, and the vocabulary's size, 0 included.
    """
    values = pc.unique(column).drop_null()
    values = values.take(pc.sort_indices(values))
    numbers = pc.fill_null(pc.index_in(column, value_set=values), -1).to_numpy().astype(np.int64) + 1
    return numbers, len(values) + 1


def _ids(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    ids = column.to_numpy()
    if column.null_count or not len(ids) or ids.min() < 0 or len(np.unique(ids)) != len(ids):
        raise DataError(f"{path}: ids are empty, missing, negative or stand twice. Unpack the archive again.")
    return ids


def _attributes(ids: np.ndarray, columns: dict[str, pa.ChunkedArray]) -> Attributes:
    numbered = {name: vocabulary(column) for name, column in columns.items()}
    tables = {name: np.zeros(int(ids.max()) + 2, np.int64) for name in columns}
    for name, (numbers, _) in numbered.items():
        tables[name][ids] = numbers
    return Attributes({name: size for name, (_, size) in numbered.items()}, tables)


def _tags(videos: np.ndarray, column: pa.ChunkedArray, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Split comma-separated tags; offsets by video id, ids, vocabulary's size. No tag becomes the tag 0."""
    lists = pc.split_pattern(column.combine_chunks(), ",")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    numbers, tag_size = vocabulary(pc.list_flatten(lists))
    counts = np.ones(size, np.int64)
    counts[videos] = np.maximum(lengths, 1)
    offsets = np.append(0, np.cumsum(counts))
    tags = np.zeros(offsets[-1], np.int64)
    own = np.cumsum(lengths) - lengths
    place = np.repeat(offsets[videos] - own, lengths) + np.arange(len(numbers))
    tags[place] = numbers
    return offsets, tags, tag_size
