"""The teacher log: what one snapshot says about every example of a day, written before the teacher trains on that day.

One folder per teacher, seed and lag; per day a Parquet file (example_id, logit_<task>), sorted by id, and a manifest
beside it. Students join it by example id: a missing, duplicate or foreign id is an error, never a silent zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distill.batch import TeacherSignal
from distill.checkpoint import file_hash
from distill.errors import LogError, nearest
from distill.files import atomic_path


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


def write_day(folder: Path, example_id: np.ndarray, logits: np.ndarray, manifest: LogManifest) -> None:
    """Write one day, file first and manifest last: a day without manifest does not exist.

    Args:
        folder: the log's folder.
        example_id: int64 [B], unique.
        logits: float32 [B, k], columns as manifest.tasks, finite.
        manifest: facts; rows and checksum are filled in here.

    Raises:
        LogError: duplicate ids, logits that are not finite, a day that the snapshot has already trained on.
    """
    if manifest.trained_through >= manifest.day:
        raise LogError(
            f"day {manifest.day}: the snapshot was trained through day {manifest.trained_through}; a day is logged "
            "before the teacher trains on it"
        )
    order = np.argsort(example_id, kind="stable")
    ids = example_id[order]
    _refuse_duplicates(ids, manifest.day)
    _refuse_non_finite(logits, example_id, manifest.day)
    columns = {"example_id": ids} | {
        f"logit_{task}": logits[order, k].astype(np.float32) for k, task in enumerate(manifest.tasks)
    }
    path = _day_file(folder, manifest.day)
    path.with_suffix(".json").unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
    facts = asdict(manifest) | {"rows": int(ids.size), "checksum": file_hash(path)}
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")


class TeacherLog:
    """Reads the log day by day and joins it by example id.

    Args:
        folder: what `write_day` filled.
        tasks: all tasks of the schema, in order; the signal's columns.
        wanted: tasks the student learns from the teacher.
        data_fingerprint: of the data set the student reads.
        snapshots: day -> day through which its snapshot must have been trained (None: no signal on that day).

    Raises:
        LogError: no such folder, a log of another data set, a wanted task the teacher lacks.
    """

    def __init__(
        self,
        folder: Path,
        tasks: Sequence[str],
        wanted: Sequence[str],
        data_fingerprint: str,
        snapshots: Mapping[int, int | None],
    ):
        self.folder, self.tasks = folder, tuple(tasks)
        self.snapshots = dict(snapshots)
        self.data_fingerprint = data_fingerprint
        self.wanted = tuple(wanted)
        self._day, self._ids, self._logits = -1, np.empty(0, np.int64), torch.empty(0, len(tasks))
        if not folder.is_dir():
            raise LogError(f"teacher log: no folder {folder}. Write it first (`distill log`).")

    def join(self, example_id: Tensor, day: int) -> TeacherSignal:
        """The teacher's logits of these examples.

        Args:
            example_id: int64 [B].
            day: the day they belong to.

        Returns:
            Logits [B, K]; mask all False on a day older than the first snapshot.

        Raises:
            LogError: an id that the log of that day lacks.
        """
        assert day in self.snapshots, f"the log was opened for days {list(self.snapshots)}, not for day {day}"
        if self.snapshots[day] is None:
            size = example_id.numel()
            return TeacherSignal(torch.zeros(size, len(self.tasks)), torch.zeros(size, dtype=torch.bool))
        self._load(day)
        wanted = example_id.numpy()
        place = np.minimum(np.searchsorted(self._ids, wanted), self._ids.size - 1)
        missing = self._ids[place] != wanted
        if missing.any():
            raise LogError(
                f"teacher log {_day_file(self.folder, day)}: {int(missing.sum())} of {wanted.size} examples are "
                f"missing, the first is example_id {wanted[missing][0]}. The log was written for other rows; write "
                "it again (`distill log`)."
            )
        return TeacherSignal(self._logits[torch.from_numpy(place)], torch.ones(wanted.size, dtype=torch.bool))

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
                    f"teacher log {_day_file(self.folder, day)}: {ids.size} {word} ids, the first is {ids[0]}. "
                    "Write the log again (`distill log`)."
                )

    def _load(self, day: int) -> None:
        if day == self._day:
            return
        path = _day_file(self.folder, day)
        manifest = read_manifest(path)
        self._check(manifest, path)
        table = _read(path)
        ids = table.column("example_id").to_numpy()
        _refuse_duplicates(np.sort(ids), day)
        if ids.size != manifest.rows or (np.diff(ids) < 0).any():
            raise LogError(
                f"teacher log {path}: got {ids.size} rows, the manifest says {manifest.rows} in order of id"
            )
        logits = np.zeros((ids.size, len(self.tasks)), np.float32)
        for task in manifest.tasks:
            logits[:, self.tasks.index(task)] = table.column(f"logit_{task}").to_numpy()
        self._day, self._ids, self._logits = day, ids, torch.from_numpy(logits)

    def _check(self, manifest: LogManifest, path: Path) -> None:
        if manifest.data_fingerprint != self.data_fingerprint:
            raise LogError(
                f"teacher log {path}: data_fingerprint: got {manifest.data_fingerprint[:12]}, allowed: "
                f"{self.data_fingerprint[:12]}, this data set's. Write the log of this data set (`distill log`)."
            )
        expected = self.snapshots[manifest.day]
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
        if file_hash(path) != manifest.checksum:
            raise LogError(
                f"teacher log {path}: its checksum is not the manifest's; the file was changed or cut"
            )


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
    try:
        return LogManifest(**json.loads(manifest.read_text()))
    except (TypeError, json.JSONDecodeError) as error:
        raise LogError(f"teacher log: {manifest} is no manifest: {error}") from error


def day_is_logged(folder: Path, day: int, checkpoint: str, data_fingerprint: str) -> bool:
    """True when that snapshot's log of that day is complete."""
    path = _day_file(folder, day)
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return False
    manifest = read_manifest(path)
    same = manifest.checkpoint == checkpoint and manifest.data_fingerprint == data_fingerprint
    return same and file_hash(path) == manifest.checksum


def _day_file(folder: Path, day: int) -> Path:
    return folder / f"day-{day:04d}.parquet"


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError(f"teacher log {path}: not readable Parquet: {error}") from error


def _refuse_duplicates(sorted_ids: np.ndarray, day: int) -> None:
    twice = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
    if twice.size:
        raise LogError(
            f"teacher log, day {day}: {twice.size} ids stand twice, the first is example_id {twice[0]}"
        )


def _refuse_non_finite(logits: np.ndarray, example_id: np.ndarray, day: int) -> None:
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise LogError(
            f"teacher log, day {day}: {int(bad.sum())} logits are not finite, the first on example_id "
            f"{example_id[bad][0]}. The teacher's training went wrong; look at its losses."
        )
