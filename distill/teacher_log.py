"""The teacher log: what one snapshot says about every example of a day, written before the teacher trains on that day.

One folder per teacher, seed and lag; per day a Parquet file (example_id, logit_<task> and, when asked for,
representation), sorted by id, and a manifest beside it. Students join it by example id: a missing, duplicate or foreign
id is an error, never a silent zero.

Shape letters: B examples, K tasks of the schema, k tasks of the teacher, R width of a representation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distill.batch import TeacherSignal
from distill.errors import LogError, nearest
from distill.log_files import (
    COLUMN,
    LogManifest,
    RepresentationFacts,
    day_file,
    read_columns,
    read_manifest,
    refuse_changed,
    write_files,
)
from distill.representations import (
    Representations,
    facts_of,
    from_table,
    refuse_other_representation,
    to_column,
)


def write_day(
    folder: Path,
    example_id: np.ndarray,
    logits: np.ndarray,
    manifest: LogManifest,
    representation: np.ndarray | None = None,
) -> None:
    """Write one day.

    Args:
        folder: the log's folder.
        example_id: int64 [B], unique.
        logits: float32 [B, k], columns as manifest.tasks, finite.
        manifest: facts; rows and checksum are filled in here, of the representation bytes and centroids.
        representation: float32 [B, R], within -1 and 1, when the manifest has one.

    Raises:
        LogError: duplicate ids, values that are not finite, a day that the snapshot has already trained on.
    """
    if manifest.trained_through >= manifest.day:
        raise LogError(
            f"day {manifest.day}: the snapshot was trained through day {manifest.trained_through}; a day is logged "
            "before the teacher trains on it"
        )
    order = np.argsort(example_id, kind="stable")
    ids = example_id[order]
    _refuse_duplicates(ids, manifest.day)
    _refuse_non_finite("logits", logits, example_id, manifest.day)
    columns = {"example_id": ids} | {
        f"logit_{task}": logits[order, k].astype(np.float32) for k, task in enumerate(manifest.tasks)
    }
    assert (representation is None) == (manifest.representation is None), "a representation with its facts"
    if representation is not None and manifest.representation is not None:
        _refuse_non_finite("representations", representation, example_id, manifest.day)
        columns[COLUMN], facts = to_column(representation[order], manifest.representation)
        manifest = replace(manifest, representation=facts)
    write_files(day_file(folder, manifest.day), pa.table(columns), manifest)


class TeacherLog:
    """Reads the log day by day and joins it by example id.

    Args:
        folder: what `write_day` filled.
        tasks: all tasks of the schema, in order; the signal's columns.
        wanted: tasks the student learns from the teacher.
        data_fingerprint: of the data set the student reads.
        snapshots: day -> day through which its snapshot must have been trained (None: no signal on that day).
        representation: also read the teacher's representations.
        taps: taps that these must have been made of; none to take them as they are.

    Raises:
        LogError: no such folder, a log of another data set, a wanted task the teacher lacks, a log without
            representations when they are asked for.
    """

    def __init__(
        self,
        folder: Path,
        tasks: Sequence[str],
        wanted: Sequence[str],
        data_fingerprint: str,
        snapshots: Mapping[int, int | None],
        representation: bool = False,
        taps: Sequence[str] = (),
    ):
        self.folder, self.tasks = folder, tuple(tasks)
        self.snapshots = dict(snapshots)
        self.data_fingerprint = data_fingerprint
        self.wanted = tuple(wanted)
        self._day, self._ids, self._logits = -1, np.empty(0, np.int64), torch.empty(0, len(tasks))
        if not folder.is_dir():
            raise LogError(f"teacher log: no folder {folder}. Write it first (`distill log`).")
        self._facts = self._first_facts(taps) if representation else None
        self._stored: Representations | None = None

    def join(self, example_id: Tensor, day: int) -> TeacherSignal:
        """The teacher's logits of these examples.

        Args:
            example_id: int64 [B].
            day: the day they belong to.

        Returns:
            Logits [B, K], representations [B, R] when they were asked for; mask all False and numbers 0 on a day older
            than the first snapshot.

        Raises:
            LogError: an id that the log of that day lacks.
        """
        assert day in self.snapshots, f"the log was opened for days {list(self.snapshots)}, not for day {day}"
        through = self.snapshots[day]
        if through is None:
            size = example_id.numel()
            nothing = None if self._facts is None else torch.zeros(size, self._facts.dim)
            return TeacherSignal(
                torch.zeros(size, len(self.tasks)),
                torch.zeros(size, dtype=torch.bool),
                torch.zeros(size),
                nothing,
            )
        self._load(day)
        wanted = example_id.numpy()
        place = np.minimum(np.searchsorted(self._ids, wanted), self._ids.size - 1)
        missing = self._ids[place] != wanted
        if missing.any():
            raise LogError(
                f"teacher log {day_file(self.folder, day)}: {int(missing.sum())} of {wanted.size} examples are "
                f"missing, the first is example_id {wanted[missing][0]}. The log was written for other rows; write "
                "it again (`distill log`)."
            )
        stored = None if self._stored is None else torch.from_numpy(self._stored.values(place))
        mask = torch.ones(wanted.size, dtype=torch.bool)
        age = torch.full((wanted.size,), float(day - 1 - through))
        return TeacherSignal(self._logits[torch.from_numpy(place)], mask, age, stored)

    def check_rows(self, day: int, example_id: np.ndarray) -> None:
        """Refuse a day that holds other examples than the data set.

        Args:
            day: the day.
            example_id: int64, all ids of the day in the data set.

        Raises:
            LogError: missing or foreign ids, named.
        """
        self._load(day)
        for word, ids in (
            ("missing", np.setdiff1d(example_id, self._ids)),
            ("foreign", np.setdiff1d(self._ids, example_id)),
        ):
            if ids.size:
                raise LogError(
                    f"teacher log {day_file(self.folder, day)}: {ids.size} {word} ids, the first is {ids[0]}. "
                    "Write the log again (`distill log`)."
                )

    def _load(self, day: int) -> None:
        if day == self._day:
            return
        path = day_file(self.folder, day)
        manifest = read_manifest(path)
        self._check(manifest, path, day)
        columns = ["example_id", *(f"logit_{task}" for task in manifest.tasks)]
        table = read_columns(path, columns if self._facts is None else [*columns, COLUMN])
        ids = table.column("example_id").to_numpy()
        _refuse_duplicates(np.sort(ids), day)
        if ids.size != manifest.rows or (np.diff(ids) < 0).any():
            raise LogError(
                f"teacher log {path}: got {ids.size} rows, the manifest says {manifest.rows} in order of id"
            )
        logits = np.zeros((ids.size, len(self.tasks)), np.float32)
        for task in manifest.tasks:
            logits[:, self.tasks.index(task)] = table.column(f"logit_{task}").to_numpy()
            _refuse_non_finite(f"logit_{task}", logits[:, [self.tasks.index(task)]], ids, day)
        if self._facts is not None:
            self._stored = from_table(table, manifest, path)
        self._day, self._ids, self._logits = day, ids, torch.from_numpy(logits)

    def _first_facts(self, taps: Sequence[str]) -> RepresentationFacts:
        """Of the first day that has a log; those of the others must be the same."""
        logged = [day for day, through in sorted(self.snapshots.items()) if through is not None]
        if not logged:
            raise LogError(
                f"teacher log {self.folder}: {COLUMN}: got no logged day among {list(self.snapshots)}, "
                "allowed: at least one"
            )
        path = day_file(self.folder, logged[0])
        return facts_of(read_manifest(path), path, taps)

    def _check(self, manifest: LogManifest, path: Path, day: int) -> None:
        if manifest.data_fingerprint != self.data_fingerprint:
            raise LogError(
                f"teacher log {path}: data_fingerprint: got {manifest.data_fingerprint[:12]}, allowed: "
                f"{self.data_fingerprint[:12]}, this data set's. Write the log of this data set (`distill log`)."
            )
        foreign = [task for task in manifest.tasks if task not in self.tasks]
        if foreign or manifest.day != day:
            got = f"task '{foreign[0]}'" if foreign else f"day {manifest.day}"
            raise LogError(
                f"teacher log {path}: the manifest is of {got}, allowed: day {day} of this data set's tasks"
            )
        expected = self.snapshots[day]
        if manifest.trained_through != expected:
            raise LogError(
                f"teacher log {path}: trained_through: got day {manifest.trained_through}, allowed: day {expected} "
                f"by this schedule. The log is stale or too fresh; write it again (`distill log`)."
            )
        for task in self.wanted:
            if task not in manifest.tasks:
                raise LogError(
                    f"teacher log {path}: task: got '{task}', allowed: {', '.join(manifest.tasks)}. "
                    f"{nearest(task, manifest.tasks)}"
                )
        if self._facts is not None:
            refuse_other_representation(facts_of(manifest, path), self._facts, path)
        refuse_changed(path, manifest)


def _refuse_duplicates(sorted_ids: np.ndarray, day: int) -> None:
    twice = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
    if twice.size:
        raise LogError(
            f"teacher log, day {day}: {twice.size} ids stand twice, the first is example_id {twice[0]}"
        )


def _refuse_non_finite(what: str, values: np.ndarray, example_id: np.ndarray, day: int) -> None:
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise LogError(
            f"teacher log, day {day}: {int(bad.sum())} {what} are not finite, the first on example_id "
            f"{example_id[bad][0]}. The teacher's training went wrong; look at its losses."
        )
