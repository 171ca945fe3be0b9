"""The files of a teacher log: per day one Parquet file and its manifest, which says where the day comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distill.checkpoint import file_hash
from distill.errors import LogError
from distill.files import atomic_path
from distill.strict_json import read_mapping, typed

COLUMN = "representation"
"""The column beside the logits, one value of fixed size an example."""


@dataclass(frozen=True)
class RepresentationFacts:
    """What the column `representation` of a day holds.

    Attributes:
        taps: taps of the teacher that it was made of.
        dim: its width D.
        prefixes: widths m below D whose first m numbers stand alone.
        codec: how it is stored (distill.codecs).
        bytes: of one example.
        centroids: float32 [D][16] of int4, fitted on the day itself; else None.
    """

    taps: list[str]
    dim: int
    prefixes: list[int]
    codec: str
    bytes: int = 0
    centroids: list[list[float]] | None = None


@dataclass(frozen=True)
class LogManifest:
    """Where one day of the log comes from.

    Attributes:
        teacher: name of the teacher.
        checkpoint: sha256 of the snapshot's file.
        trained_through: last day the snapshot was trained on.
        day: the day that is logged.
        lag: day - 1 - trained_through under the progressive schedule.
        data_fingerprint: of the data set.
        schema: name of the data set's schema.
        tasks: tasks that have a logit.
        rows: number of examples.
        checksum: sha256 of the day's Parquet file.
        representation: of the column beside the logits; None when there is none.
    """

    teacher: str
    checkpoint: str
    trained_through: int
    day: int
    lag: int
    data_fingerprint: str
    schema: str
    tasks: list[str]
    rows: int
    checksum: str = ""
    representation: RepresentationFacts | None = None


def day_file(folder: Path, day: int) -> Path:
    """The Parquet file of a day; its manifest has the same name with `.json`."""
    return folder / f"day-{day:04d}.parquet"


def write_files(path: Path, table: pa.Table, manifest: LogManifest) -> None:
    """Write a day, file first and manifest last: a day without manifest does not exist.

    Args:
        path: the day's Parquet file.
        table: its rows.
        manifest: facts; rows and checksum are filled in here.
    """
    path.with_suffix(".json").unlink(missing_ok=True)
    # Hardly two representations are the same: a dictionary would only add to them.
    repeated = [name for name in table.column_names if name != COLUMN]
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, use_dictionary=repeated)
    facts = _known(asdict(replace(manifest, rows=table.num_rows, checksum=file_hash(path))))
    if manifest.representation is not None:
        facts["representation"] = _known(facts["representation"])
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")


def read_manifest(path: Path) -> LogManifest:
    """The manifest beside a day's Parquet file.

    Raises:
        LogError: no manifest, or one that cannot be read.
    """
    manifest = path.with_suffix(".json")
    if not manifest.is_file() or not path.is_file():
        raise LogError(
            f"teacher log: no {path.name} with its manifest in {path.parent}. Write it (`distill log`)."
        )
    facts = typed(read_mapping(manifest, LogError, _ADVICE), LogManifest, manifest, LogError, _ADVICE)
    if facts.get("representation") is not None:
        facts["representation"] = RepresentationFacts(**facts["representation"])
    return LogManifest(**facts)


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a day.

    Raises:
        LogError: the file is damaged, or has no such column of its type without nulls.
    """
    try:
        table = pq.read_table(path, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"teacher log {path}: not readable Parquet: {error}") from error
    for name in columns:
        if table.schema.get_field_index(name) < 0:
            raise LogError(f"teacher log {path}: column {name} is missing. {_ADVICE}")
        _refuse_other_values(name, table.column(name), path)
    return table


def _refuse_other_values(name: str, column: pa.ChunkedArray, path: Path) -> None:
    allowed = {"example_id": "int64", COLUMN: "fixed_size_binary"}.get(name, "float")
    if not str(column.type).startswith(allowed) or column.null_count:
        raise LogError(
            f"teacher log {path}: column {name}: got {column.type} with {column.null_count} nulls, allowed: {allowed} "
            f"without any. {_ADVICE}"
        )


def refuse_changed(path: Path, manifest: LogManifest) -> None:
    """Refuse a file that is not the one its manifest was written for.

    Raises:
        LogError: another checksum.
    """
    if file_hash(path) != manifest.checksum:
        raise LogError(f"teacher log {path}: its checksum is not the manifest's; the file was changed or cut")


def day_is_logged(folder: Path, day: int, checkpoint: str, data_fingerprint: str) -> bool:
    """True when that snapshot's log of that day is complete."""
    path = day_file(folder, day)
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return False
    manifest = read_manifest(path)
    same = manifest.checkpoint == checkpoint and manifest.data_fingerprint == data_fingerprint
    return same and file_hash(path) == manifest.checksum


_ADVICE = "Write the log again (`distill log`)."


def _known(facts: dict) -> dict:
    return {name: value for name, value in facts.items() if value is not None}
