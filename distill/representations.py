"""The teacher's representations in its log: one column of fixed size, written and read through a codec.

Shape letters: N examples of a day, D width of a representation, S bytes of a stored one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from distill.codecs import Codec, Int4, fit_codec, make_codec
from distill.errors import LogError, nearest
from distill.log_files import (
    COLUMN,
    LogManifest,
    RepresentationFacts,
    day_file,
    read_columns,
    read_manifest,
    refuse_changed,
)


@dataclass(frozen=True)
class Representations:
    """One day as it is stored, decoded where it is asked for.

    Attributes:
        example_id: int64 [N], rising.
        codes: uint8 [N, S].
        codec: reads the codes.
        manifest: of the day: which snapshot made them (numbers of two snapshots are not comparable), of which taps.
    """

    example_id: np.ndarray
    codes: np.ndarray
    codec: Codec
    manifest: LogManifest

    def values(self, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """The numbers of some rows, of all when left out, float32 [N, D]."""
        return self.codec.decode(self.codes[rows])


def read_representations(folder: Path, day: int, taps: Sequence[str] = ()) -> Representations:
    """The representations of one day's examples.

    Args:
        folder: the log's folder.
        day: the day.
        taps: taps that they must have been made of; none to take them as they are.

    Raises:
        LogError: the day is not logged or was changed, has no representation, or one without such a tap.
    """
    path = day_file(folder, day)
    manifest = read_manifest(path)
    facts_of(manifest, path, taps)
    refuse_changed(path, manifest)
    return from_table(read_columns(path, ["example_id", COLUMN]), manifest, path)


def facts_of(manifest: LogManifest, path: Path, taps: Sequence[str] = ()) -> RepresentationFacts:
    """What a day's representation is.

    Args:
        manifest: of the day.
        path: the day's file, for messages.
        taps: taps that it must have been made of.

    Raises:
        LogError: it has none, or one without such a tap.
    """
    facts = manifest.representation
    if facts is None:
        raise LogError(
            f"teacher log {path}: {COLUMN}: got none, allowed: a log with representations. Set teacher.representation "
            "in the experiment and run it anew (`distill run`)."
        )
    for tap in taps:
        if tap not in facts.taps:
            raise LogError(
                f"teacher log {path}: {COLUMN}.taps: got '{tap}', allowed: {', '.join(facts.taps)}. "
                f"{nearest(tap, facts.taps)}".rstrip()
            )
    return facts


def refuse_other_representation(
    facts: RepresentationFacts, expected: RepresentationFacts, path: Path
) -> None:
    """Refuse a day whose representation is of another form than that of the days before.

    Raises:
        LogError: other taps or another width.
    """
    for name in ("taps", "dim"):
        got, allowed = getattr(facts, name), getattr(expected, name)
        if got != allowed:
            raise LogError(
                f"teacher log {path}: {COLUMN}.{name}: got {got}, allowed: {allowed}, as on the first logged day. "
                "Write the log again (`distill log`)."
            )


def to_column(values: np.ndarray, facts: RepresentationFacts) -> tuple[pa.Array, RepresentationFacts]:
    """Fit the codec and store.

    Args:
        values: float32 [N, D], within -1 and 1.
        facts: taps, width and codec; bytes and centroids are filled in.

    Returns:
        A FixedSizeBinary array [N], and the complete facts.
    """
    codec = fit_codec(facts.codec, values)
    codes = pa.py_buffer(np.ascontiguousarray(codec.encode(values)))
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(codec.size), len(values), [None, codes])
    centroids = codec.centroids.tolist() if isinstance(codec, Int4) else None
    return column, replace(facts, bytes=codec.size, centroids=centroids)


def from_table(table: pa.Table, manifest: LogManifest, path: Path) -> Representations:
    """The representations of a day.

    Args:
        table: columns example_id and representation.
        manifest: of the day.
        path: the day's file, for messages.
    """
    facts = facts_of(manifest, path)
    try:
        centroids = None if facts.centroids is None else np.array(facts.centroids, np.float32)
        codec = make_codec(facts.codec, facts.dim, centroids)
    except ValueError as error:  # rows of different lengths, or what the codec says of them
        raise LogError(f"teacher log {path}: {COLUMN}: {error}") from error
    column = table.column(COLUMN)
    if column.type != pa.binary(codec.size):
        raise LogError(
            f"teacher log {path}: column {COLUMN}: got {column.type}, allowed: {codec.size} bytes of the codec "
            f"{facts.codec}. Write the log again (`distill log`)."
        )
    codes = _bytes_of(column, codec.size)
    return Representations(table.column("example_id").to_numpy(), codes, codec, manifest)


def _bytes_of(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """The bytes of a FixedSizeBinary column, uint8 [N, size]."""
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * size, chunk.offset * size)
        for chunk in column.chunks
    ]
    return np.concatenate([*parts, np.empty(0, np.uint8)]).reshape(-1, size)
