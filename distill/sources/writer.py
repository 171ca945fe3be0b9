"""Writes a prepared data set: days, schema, manifest and history index, complete or not at all.

    with PreparedWriter(folder, schema, source="simulator", fingerprint=digest) as writer:
        for day in range(1, schema.n_days + 1):
            writer.write_day(day, table)                                  # sorted by (timestamp, example_id)
            writer.write_truth(day, example_id, {"click": probability})   # simulators only
        writer.add_events(user_id, time, item, domain, labels, matures)   # history from before day 1, if any
        writer.add_content("image", item, vectors)                        # every modality of the schema

Everything goes into a temporary sibling folder that is renamed at the end; an error, a full disk included,
removes it. Rows become history events by themselves. Memory: one row group of the open day; at the end what
`distill.sources.events` and `distill.sources.content` say, and 8 bytes per row.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.errors import DataError
from distill.rows import Rows, check_rows, conform, decode
from distill.schema import FeatureSchema
from distill.sources.content import ContentBuilder
from distill.sources.events import NO_EXAMPLE, EventBuilder
from distill.vocabulary import VOCABULARY, Vocabulary, save_all

ROW_GROUP = 65_536
# Part of every fingerprint: raise it when the prepared form changes, so that cached data sets are made anew.
PREPARED_VERSION = 2
MANIFEST = "manifest.json"
CONTENT = "content"


def day_folder(day: int) -> str:
    """Folder of a day's parts, relative to the data set."""
    return f"days/day={day:04d}"


def truth_file(day: int) -> str:
    """File of a day's true probabilities, relative to the data set."""
    return f"truth/day={day:04d}.parquet"


class PreparedWriter:
    """Context manager that writes one prepared data set.

    Args:
        folder: where the data set will lie; must not hold anything yet.
        schema: its schema, days included.
        source: name of the source, for the manifest.
        fingerprint: sha256 hex of what determines the content (`distill.sources.fingerprint`).
        vocabularies: by name, of every feature whose ids are not row numbers in the source.

    Raises:
        DataError: on entry, when the folder is taken; on exit, when a day has no rows, an example_id or an item's
            vector stands twice, or a modality was not given; whenever the disk is full.
    """

    def __init__(
        self,
        folder: str | Path,
        schema: FeatureSchema,
        *,
        source: str,
        fingerprint: str,
        vocabularies: Mapping[str, Vocabulary] | None = None,
    ):
        self.folder = Path(folder)
        self.vocabularies = vocabularies or {}
        assert set(self.vocabularies) == {f.name for f in schema.sparse.values() if f.ids != "rows"}
        self.schema = schema
        self.source = source
        self.fingerprint = fingerprint

    def __enter__(self) -> PreparedWriter:
        self._refuse_foreign()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{self.folder.name}.partial-"
        self._partial = Path(tempfile.mkdtemp(prefix=prefix, dir=self.folder.parent))
        self._events = EventBuilder(self._partial / "events", len(self.schema.tasks))
        self._content = ContentBuilder(self._partial / CONTENT, self.schema, self.source)
        self._ids = (self._partial / "example_ids.tmp").open("wb")
        self._rows_per_day: dict[int, int] = {}
        self._day: _Day | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            error = failure
            raise
        finally:
            self._discard()
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise DataError(
                    f"{self.folder}: the disk is full; nothing was left behind. "
                    "Free some space, or set data.cache to a folder on another disk."
                ) from error

    def write_day(self, day: int, table: pa.Table) -> None:
        """Append rows of one day; a large day may come in several calls, one after the other, in order.

        Args:
            day: from 1.
            table: the contract's columns in any order: example_id, user_id, timestamp (ms), domain, every
                feature, `label_<task>` and optionally `matures_<task>`; sorted by (timestamp, example_id).

        Raises:
            DataError: a column or value breaks the contract (`distill.rows`), or the day was already closed.
        """
        where = f"{self.source}, day {day}"
        if not 1 <= day <= self.schema.n_days:
            raise DataError(f"{where}: allowed: days 1 to {self.schema.n_days} of the schema")
        if self._day is None or self._day.number != day:
            self._close_day()
            if day in self._rows_per_day:
                raise DataError(
                    f"{where}: was already written. Write all pieces of a day one after the other."
                )
            self._day = _Day(day, self._partial / day_folder(day))
            self._rows_per_day[day] = 0
        table = conform(table, self.schema, where).combine_chunks()
        if not table.num_rows:
            return
        rows = decode(table, self.schema, list(self.schema.sparse), self.schema.dense, where)
        check_rows(rows, self.schema, self.schema.dense, where)
        self._check_times(rows, day, where)
        self._day.append(table, rows, where)
        self._rows_per_day[day] += len(rows)
        self._ids.write(rows.example_id.tobytes())
        item = rows.single[rows.names.index(self.schema.item_feature)]
        self._events.append(
            rows.user_id, rows.timestamp, item, rows.domain, rows.labels, rows.matures, rows.example_id
        )

    def write_truth(self, day: int, example_id: np.ndarray, probabilities: Mapping[str, np.ndarray]) -> None:
        """Keep the true probabilities of a simulated day; never an input.

        Args:
            day: from 1.
            example_id: int64 [R], the day's rows in order.
            probabilities: by task, float [R].
        """
        path = self._partial / truth_file(day)
        path.parent.mkdir(exist_ok=True)
        columns = {f"p_{task}": np.asarray(probabilities[task], np.float64) for task in self.schema.tasks}
        pq.write_table(pa.table({"example_id": np.asarray(example_id, np.int64), **columns}), path)

    def add_events(
        self,
        user_id: np.ndarray,
        time: np.ndarray,
        item: np.ndarray,
        domain: np.ndarray,
        labels: np.ndarray,
        matures: np.ndarray,
    ) -> None:
        """Add history events that are not rows, such as those from before day 1; in any order and in parts.

        Args:
            user_id: int64 [E].
            time: int64 [E] ms.
            item: int64 [E], ids of the schema's item feature.
            domain: int [E], index into the schema's domains.
            labels: int8 [E, K]: 0, 1, or -1 for unknown.
            matures: int64 [E, K] ms, as the rows' column: a label is used from the later of this and the end
                of its task's window; 0 for at once.

        Raises:
            DataError: an id or label out of range.
        """
        size = self.schema.sparse[self.schema.item_feature].size
        labels = np.asarray(labels, np.int8)
        for name, values, low, high in (
            ("item", item, 0, size),
            ("domain", domain, 0, len(self.schema.domains)),
            ("labels", labels, -1, 2),
        ):
            if values.size and (values.min() < low or values.max() >= high):
                raise DataError(
                    f"{self.source}, history events: {name}: got {values.min()} to {values.max()}, "
                    f"allowed: {low} to {high - 1}"
                )
        windows = np.array([task.window_ms for task in self.schema.tasks.values()])
        matures = np.maximum(matures, np.asarray(time)[:, None] + windows)
        none = np.full(len(user_id), NO_EXAMPLE)
        self._events.append(user_id, time, item, domain, labels, matures, none)

    def add_content(self, name: str, item: np.ndarray, vectors: np.ndarray) -> None:
        """Add content vectors, in any order of items and in parts; an item without one is missing.

        Args:
            name: a modality of the schema; each must be given, if only an empty part of it.
            item: int64 [N], ids of the schema's item feature.
            vectors: float [N, M], kept in half precision.

        Raises:
            DataError: no such modality, another width, an id out of range, a number that is not finite.
        """
        self._content.append(name, item, vectors)

    def _check_times(self, rows: Rows, day: int, where: str) -> None:
        end = self.schema.days[day - 1].end_ms
        if rows.timestamp[-1] >= end:
            raise DataError(
                f"{where}: timestamp: got {rows.timestamp[-1]} at example_id {rows.example_id[-1]}, "
                f"allowed: before the day's end_ms {end}. A label of that row would never be used."
            )

    def _close_day(self) -> None:
        if self._day is not None:
            self._day.close()
        self._day = None

    def _finish(self) -> None:
        self._close_day()
        missing = [day for day in range(1, self.schema.n_days + 1) if not self._rows_per_day.get(day)]
        if missing or not self._rows_per_day:
            raise DataError(
                f"{self.source}: days {missing or '(none in the schema)'} have no rows; every day needs some"
            )
        self._check_unique()
        self._events.build()
        self._content.build()
        save_all(self._partial / VOCABULARY, self.vocabularies)
        self.schema.save(self._partial / "schema.yaml")
        manifest = {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "rows": sum(self._rows_per_day.values()),
            "rows_per_day": {str(day): self._rows_per_day[day] for day in sorted(self._rows_per_day)},
            "complete": True,
        }
        (self._partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        self._publish()

    def _check_unique(self) -> None:
        self._ids.close()
        path = Path(self._ids.name)
        ids = np.fromfile(path, np.int64)
        path.unlink()
        ids.sort()
        twice = np.unique(ids[1:][ids[1:] == ids[:-1]])
        if len(twice):
            few = ", ".join(str(i) for i in twice[:5])
            raise DataError(
                f"{self.source}: example_id: {len(twice)} ids stand twice ({few}), allowed: each once"
            )

    def _publish(self) -> None:
        self._partial.chmod(0o755)  # mkdtemp gives 0700, which would keep others from reading a shared cache
        try:
            os.rename(self._partial, self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another process finished the same data set first: its copy stays, ours is discarded.
            self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        """The folder may hold nothing, or the same data set, just put there by another process."""
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return
        manifest = self.folder / MANIFEST
        if manifest.is_file() and json.loads(manifest.read_text())["fingerprint"] == self.fingerprint:
            return
        raise DataError(f"{self.folder}: holds something else. Remove it, or name another folder.")

    def _discard(self) -> None:
        unfinished = [self._ids.close, self._events.close, self._content.close]
        if self._day is not None:
            unfinished.append(self._day.close_file)
        for close in unfinished:
            # On a full disk closing fails as well; what it would have written is thrown away here anyway.
            with contextlib.suppress(OSError):
                close()
        shutil.rmtree(self._partial, ignore_errors=True)


class _Day:
    """The open day: rows wait until a row group is full."""

    def __init__(self, number: int, folder: Path):
        self.number = number
        folder.mkdir(parents=True)
        self._path = folder / "part-0.parquet"
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._last: tuple[int, int] | None = None

    def append(self, table: pa.Table, rows: Rows, where: str) -> None:
        first = (int(rows.timestamp[0]), int(rows.example_id[0]))
        if self._last is not None and first <= self._last:
            raise DataError(
                f"{where}: rows are not sorted by (timestamp, example_id): {first} follows {self._last}"
            )
        self._last = (int(rows.timestamp[-1]), int(rows.example_id[-1]))
        self._waiting.append(table)
        n = sum(t.num_rows for t in self._waiting)
        if n >= ROW_GROUP:
            full = n - n % ROW_GROUP
            whole = pa.concat_tables(self._waiting).combine_chunks()
            self._write(whole.slice(0, full))
            self._waiting = [whole.slice(full)]

    def _write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, write_page_checksum=True)
        self._writer.write_table(table, row_group_size=ROW_GROUP)

    def close(self) -> None:
        rest = pa.concat_tables(self._waiting) if self._waiting else None
        if rest is not None and rest.num_rows:
            self._write(rest.combine_chunks())
        self.close_file()

    def close_file(self) -> None:
        """Let go of the file, complete or not."""
        if self._writer is not None:
            self._writer.close()
