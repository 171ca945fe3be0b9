"""A training's checkpoints on disk: each appears whole or not at all, is known by its checksums, and makes room for
later ones.

    <folder>/step-0000001200/manifest.json    facts, checksums of the files below
                             training/        what the next step depends on (`distill.checkpoints.part`)
                             metrics/         what was predicted and measured so far
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.checkpoint import file_hash
from distill.checkpoints.part import read_part, write_part
from distill.files import naming_full_disk

MANIFEST = "manifest.json"
TRAINING, METRICS = "training", "metrics"

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
        training: what the next step depends on.
        metrics: what was predicted and measured so far.
    """

    facts: Facts
    training: Any
    metrics: Any


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

    def write(self, facts: Facts, training: Any, metrics: Any) -> Path:
        """Add a checkpoint; older ones go.

        Args:
            facts: when it was made.
            training, metrics: nested states (`distill.checkpoints.tree`).

        Returns:
            Its folder.

        Raises:
            UserError: the disk is full; nothing half written is left, and older checkpoints stay.
        """
        path = self.folder / f"step-{facts.step:010d}"
        with naming_full_disk(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=self.folder))
            try:
                write_part(temporary / TRAINING, training)
                write_part(temporary / METRICS, metrics)
                self._describe(temporary, facts)
                self._put(temporary, path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self._make_room()
        return path

    def newest(self) -> Found | None:
        """The newest checkpoint that is whole; damaged ones are named. None when there is none."""
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
            facts = Facts(**manifest["facts"])
            return Found(facts, read_part(path / TRAINING), read_part(path / METRICS))
        return None

    def remove(self) -> None:
        """All of them: the training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _describe(self, folder: Path, facts: Facts) -> None:
        checksums = {name: file_hash(path) for name, path in sorted(_files(folder).items())}
        content = {"identity": self.identity, "facts": asdict(facts), "files": checksums}
        manifest = {"checksum": _checksum(content), "content": content}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    def _put(self, temporary: Path, path: Path) -> None:
        """In its place; a damaged one of the same step may stand there."""
        _remove(path)
        temporary.chmod(0o755)  # mkdtemp gives 0700, which would keep others from reading a shared run folder
        os.rename(temporary, path)

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
