"""A prepared data set: opening it, making it once and keeping it, counting by columns. Free of torch.

Shape letters: R rows of a day, D domains, K tasks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.config import DataConfig
from distill.errors import DataError
from distill.parquet import ParquetPart
from distill.registry import SOURCES
from distill.rows import (
    UNKNOWN,
    Rows,
    check_columns,
    columns_for,
    decode,
    maturity_columns,
    open_windows,
    usable,
)
from distill.schema import FeatureSchema
from distill.sources.fingerprint import fingerprint
from distill.sources.writer import CONTENT, MANIFEST, day_folder
from distill.strict_json import read_mapping, typed
from distill.structured import build
from distill.vocabulary import VOCABULARY, Vocabulary, load

if TYPE_CHECKING:
    from distill.progress import Progress


@dataclass(frozen=True)
class Outcomes:
    """Final labels of a day's rows, in the order of the stream; for scores and rates, never for training.

    Attributes:
        example_id, domain: int64 [R].
        labels: int8 [R, K], -1 where unknown. So is, on a day with labels that were missing when the log was exported
            because their window was open at the last day's end, every label with an open window: those that are there
            are positives above all, and scores would be of these.
        matured: bool [R, K], True where training on the day may use the label.
    """

    example_id: np.ndarray
    domain: np.ndarray
    labels: np.ndarray
    matured: np.ndarray


@dataclass(frozen=True)
class DataSet:
    """A prepared data set on disk. Cheap to open, pickle and copy; streams read its days.

    Attributes:
        folder: where it lies.
        schema: its schema.
        source: name of the source that made it.
        fingerprint: sha256 hex of what determined its content.
        rows_per_day: rows by day number.
    """

    folder: Path
    schema: FeatureSchema
    source: str
    fingerprint: str
    rows_per_day: dict[int, int]

    @classmethod
    def open(cls, folder: str | Path) -> DataSet:
        """Open a folder that `PreparedWriter` completed.

        Raises:
            DataError: no complete data set there, a day or its files missing, no rows.
        """
        folder = Path(folder)
        manifest = _manifest(folder)
        schema = FeatureSchema.load(folder / "schema.yaml")
        rows = {int(day): n for day, n in manifest["rows_per_day"].items()}
        data = cls(folder, schema, manifest["source"], manifest["fingerprint"], rows)
        if not schema.n_days or not sum(rows.values()):
            raise DataError(f"{folder}: the data set is empty. Remove it and prepare it again.")
        for day in range(1, schema.n_days + 1):
            data.parts(day)
        return data

    @property
    def rows(self) -> int:
        return sum(self.rows_per_day.values())

    @property
    def events_folder(self) -> Path:
        """Where `distill.history.EventStore` finds the history index."""
        return self.folder / "events"

    @property
    def content_folder(self) -> Path:
        """Where `distill.content.ContentStore` finds the items' vectors."""
        return self.folder / CONTENT

    def vocabularies(self) -> dict[str, Vocabulary]:
        """The raw values of the features that have some, read from disk; by feature.

        Raises:
            DataError: a file is missing or damaged.
        """
        raw = [feature for feature in self.schema.sparse.values() if feature.ids != "rows"]
        return {f.name: load(self.folder / VOCABULARY / f"{f.name}.parquet", f) for f in raw}

    def parts(self, day: int) -> list[Path]:
        """Parquet files of a day, in order.

        Raises:
            DataError: no such day, or its files are missing.
        """
        if not 1 <= day <= self.schema.n_days:
            raise DataError(f"{self.folder}: day: got {day}, allowed: 1 to {self.schema.n_days}")
        parts = sorted((self.folder / day_folder(day)).glob("part-*.parquet"))
        if not parts or day not in self.rows_per_day:
            raise DataError(
                f"{self.folder}: day {day} ({self.schema.days[day - 1].date}) is missing: nothing in "
                f"{day_folder(day)}. Remove the prepared data set, and it is made anew."
            )
        return parts

    def outcomes(self, day: int) -> Outcomes:
        """Final labels of a day, read column by column.

        Raises:
            DataError: as `parts`; an unreadable file; a label that is none.
        """
        schema = self.schema
        now, last = schema.days[day - 1].end_ms, schema.days[-1].end_ms
        parts = [
            (r.example_id, r.domain, r.labels, usable(r, now), open_windows(r, schema, last))
            for r in self.label_rows(day)
        ]
        columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        example_id, domain, labels, matured, waiting = columns
        # Where one is missing in an open window, those that are there became known early: positives above all.
        labels[waiting & (waiting & (labels == UNKNOWN)).any(axis=0)] = UNKNOWN
        return Outcomes(example_id, domain, labels, matured)

    def label_rows(self, day: int) -> Iterator[Rows]:
        """The rows of a day without their features, a file at a time: ids, labels and when they become known.

        Raises:
            DataError: as `outcomes`.
        """
        for path in self.parts(day):
            file, needed = ParquetPart(path), columns_for(self.schema, (), ())
            check_columns(file.columns, self.schema, str(path), needed)
            wanted = needed + [c for c in maturity_columns(self.schema) if c in file.columns]
            yield decode(file.read(wanted), self.schema, (), (), str(path))

    def label_counts(self, days: Iterable[int], matured: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Positives and labelled rows of each domain and task.

        Args:
            days: day numbers.
            matured: count only labels that training on their day may use, as serving biases must.

        Returns:
            positives int64 [D, K] and known int64 [D, K].
        """
        size = len(self.schema.domains)
        positives, known = np.zeros((2, size, len(self.schema.tasks)), np.int64)
        for day in days:
            outcomes = self.outcomes(day)
            counted = outcomes.matured if matured else outcomes.labels != UNKNOWN
            for k in range(len(self.schema.tasks)):
                rows = counted[:, k]
                known[:, k] += np.bincount(outcomes.domain[rows], minlength=size)
                rows = rows & (outcomes.labels[:, k] == 1)
                positives[:, k] += np.bincount(outcomes.domain[rows], minlength=size)
        return positives, known

    def base_rates(self, days: Iterable[int], matured: bool = False) -> dict[str, np.ndarray]:
        """Share of positives of each domain and task over these days.

        Args:
            days: day numbers.
            matured: as in `label_counts`.

        Returns:
            Task to float64 [D], NaN where a domain has no label.
        """
        positives, known = self.label_counts(days, matured)
        rates = np.where(known > 0, positives / np.maximum(known, 1), np.nan)
        return {task: rates[:, k] for k, task in enumerate(self.schema.tasks)}


def prepare(data: DataConfig, progress: Progress) -> DataSet:
    """The data set of a config: from the cache when it is there, else made by its source and kept.

    Two processes may prepare the same data set at once: each writes its own copy, the first one stays.

    Args:
        data: source, its settings and files, and the cache.
        progress: shown to the user.

    Raises:
        UserError: unknown source.
        DataError: whatever the source finds wrong.
    """
    entry = SOURCES.get(data.source)
    config = build(entry.config, data.options)
    digest = fingerprint(data.source, config, data)
    folder = Path(data.cache) / f"{data.source}-{digest[:12]}"
    if not (folder / MANIFEST).is_file():
        entry.load()(config, data, folder, progress)
    found = DataSet.open(folder)
    if found.fingerprint != digest:
        raise DataError(
            f"{folder}: fingerprint: got {found.fingerprint}, allowed: {digest}. Remove that folder."
        )
    return found


@dataclass
class _Manifest:
    """What the manifest of a complete data set holds."""

    source: str
    fingerprint: str
    rows: int
    rows_per_day: dict[str, int]
    complete: bool


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"{folder}: no {MANIFEST}, so it holds no complete data set. Prepare it with `distill run`."
        )
    advice = "Remove the data set, and it is made anew."
    manifest = read_mapping(path, DataError, advice)
    missing = [key for key in ("source", "fingerprint", "rows_per_day", "complete") if not manifest.get(key)]
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} missing or empty. {advice}")
    manifest = typed(manifest, _Manifest, path, DataError, advice)
    other = [day for day in manifest["rows_per_day"] if not re.fullmatch("[0-9]{1,6}", day)]
    if other:
        raise DataError(f"{path}: rows_per_day: got {other[0]!r:.40}, allowed: numbers of days. {advice}")
    return manifest
