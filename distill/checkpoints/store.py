"""A training's checkpoints on disk: each appears whole or not at all, is known by its checksums, and makes room for
later ones.

    <folder>/step-0000001200/manifest.json    facts, checksums of the files below
                             training/        what the next step depends on (`distill.checkpoints.part`)
                             process-0000/    the part of it that belongs to one of the processes that train together
                             metrics/         what was predicted and measured so far

Each process writes its own part, and the first one all else; the folder lies on a disk that all of them see.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.checkpoint import file_hash
from distill.checkpoints.part import read_part, write_part
from distill.checkpoints.together import from_first, wait_for_all
from distill.distributed.share import is_first, process_number
from distill.errors import UserError
from distill.files import naming_full_disk

MANIFEST = "manifest.json"
TRAINING, METRICS, PROCESS = "training", "metrics", "process-"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """When a checkpoint was made.

    Attributes:
        step: steps of the whole training so far.
        day: the day that is trained on.
        batches: of that day, trained on so far.
        loss: mean loss of the labels in these batches, each scored before it was learnt from.
    """

    step: int
    day: int
    batches: int
    loss: float


@dataclass(frozen=True)
class Found:
    """A checkpoint read back.

    Attributes:
        facts: when it was made.
        training: what the next step depends on, the same in all processes.
        metrics: what was predicted and measured so far.
        own: what belongs to each of the processes that wrote it.
    """

    facts: Facts
    training: Any
    metrics: Any
    own: list[Any]


class CheckpointStore:
    """The checkpoints of one training.

    Args:
        folder: of this training alone; made when first written to.
        identity: what the training is, as JSON; checkpoints of another one are removed.
        keep: newest checkpoints that stay; the one with the least loss stays beside them.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], keep: int):
        assert keep >= 1, f"keep {keep}"
        self.folder, self.identity, self.keep = folder, json.loads(json.dumps(identity)), keep

    def write(self, facts: Facts, training: Any, metrics: Any, own: Any) -> Path:
        """Add a checkpoint; older ones go. Of several processes each must call it.

        Args:
            facts: when it was made.
            training, metrics: nested states (`distill.checkpoints.tree`), of the first process.
            own: likewise, of every process.

        Returns:
            Its folder.

        Raises:
            UserError: the disk is full; nothing half written is left, and older checkpoints stay.
        """
        path = self._path(facts.step)
        temporary = self.folder / f".{path.name}.partial"
        with naming_full_disk(path):
            try:
                if is_first():
                    self._clean()
                    temporary.mkdir(parents=True)
                wait_for_all()
                write_part(temporary / f"{PROCESS}{process_number():04d}", own)
                if is_first():
                    write_part(temporary / TRAINING, training)
                    write_part(temporary / METRICS, metrics)
                wait_for_all()
                if is_first():
                    self._describe(temporary, facts)
                    _remove(path)  # a damaged one of the same step may stand there
                    os.rename(temporary, path)
                    self._make_room()
            finally:
                if is_first():
                    shutil.rmtree(temporary, ignore_errors=True)
        return path

    def newest(self) -> Found | None:
        """The newest checkpoint that is whole; damaged ones are named. None when there is none.

        Of several processes each must call it; the first one looks, and all take the one that it has found.

        Raises:
            UserError: another process does not see what the first one sees.
        """
        step = from_first(self._newest_step() if is_first() else None)
        if step is None:
            return None
        path = self._path(step)
        if not path.is_dir():
            raise UserError(
                f"checkpoint {path}: got no such folder in process {process_number()}, allowed: what the first process "
                "sees. Put the experiment's output on a disk that all machines share"
            )
        own = [read_part(part) for part in sorted(path.glob(f"{PROCESS}*"))]
        facts = Facts(**_read_manifest(path)["facts"])
        return Found(facts, read_part(path / TRAINING), read_part(path / METRICS), own)

    def _newest_step(self) -> int | None:
        for path in reversed(self._paths()):
            try:
                manifest = _read_manifest(path)
                if manifest["identity"] != self.identity:
                    _remove(path)
                    continue
                _refuse_changed(path, manifest["files"])
            except _Damaged as damage:
                _LOG.warning("checkpoint %s: damaged (%s); the one before it is taken", path, damage)
                continue
            return manifest["facts"]["step"]
        return None

    def remove(self) -> None:
        """All of them: the training has ended. Of several processes the first one does it."""
        if is_first():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}"

    def _clean(self) -> None:
        """What a process left behind that was killed while it wrote."""
        for leftover in self.folder.glob(".step-*.partial"):
            shutil.rmtree(leftover)

    def _describe(self, folder: Path, facts: Facts) -> None:
        checksums = {name: file_hash(path) for name, path in sorted(_files(folder).items())}
        content = {"identity": self.identity, "facts": asdict(facts), "files": checksums}
        manifest = {"checksum": _checksum(content), "content": content}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    def _make_room(self) -> None:
        paths = self._paths()
        kept = set(paths[-self.keep :])
        losses = {path: loss for path in paths if (loss := _loss(path)) is not None}
        if losses:
            kept.add(min(losses, key=lambda path: losses[path]))
        for path in paths:
            if path not in kept:
                _remove(path)

    def _paths(self) -> list[Path]:
        """Complete checkpoints, damaged or not, the newest last."""
        return sorted(path.parent for path in self.folder.glob(f"step-*/{MANIFEST}"))


class _Damaged(Exception):
    """Why a checkpoint cannot be read."""


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        content, checksum = manifest["content"], manifest["checksum"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{MANIFEST} is not readable: {error}") from error
    if _checksum(content) != checksum:
        raise _Damaged(f"{MANIFEST} was changed")
    return content


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _refuse_changed(path: Path, checksums: Mapping[str, str]) -> None:
    found = _files(path)
    if found.keys() - {MANIFEST} != checksums.keys():
        raise _Damaged(
            f"files are missing or foreign: {sorted(found.keys() ^ checksums.keys() - {MANIFEST})}"
        )
    for name, checksum in checksums.items():
        try:
            if file_hash(found[name]) != checksum:
                raise _Damaged(f"the checksum of {name} is not the one in {MANIFEST}")
        except OSError as error:
            raise _Damaged(f"{name} is not readable: {error}") from error


def _files(folder: Path) -> dict[str, Path]:
    """By their names below a folder."""
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def _loss(path: Path) -> float | None:
    try:
        return float(_read_manifest(path)["facts"]["loss"])
    except _Damaged:
        return None


def _remove(path: Path) -> None:
    """The manifest first: what is killed in between leaves no checkpoint that looks complete."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
