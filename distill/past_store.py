"""The store of a teacher's past: representations of earlier examples, by user and by item, read strictly before a time.

A folder holds an index (`distill.past_index`) for every group and a manifest, which is written last: a store without it
does not exist. It says which days of which log it was made of; a store whose log has changed since is refused.

- `user`: every logged example's own vector at its own time, so an example never sees itself nor what its user was shown
  in the same millisecond.
- `item`: per item and day the decayed mean of all its examples up to that day's end, at that day's last millisecond;
  always fp16. Refreshed daily: an example of day t sees the days up to t - 1.

Two things are of other days than the example's past, and know no label: rotated int8 vectors have one step, from the
largest number of all logged days, and a snapshot's rotation is fitted on the first examples of the day that it logs
first. Later days can move a vector by less than a step.

Shape letters: B examples, R width of a representation.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distill.batch import Past
from distill.dataset import DataSet
from distill.errors import LogError, UserError
from distill.files import atomic_path
from distill.log_files import day_file, read_manifest
from distill.past import PastRequest
from distill.past_index import DTYPES, IndexFacts, PastIndex, write_index
from distill.past_log import LoggedPast, item_means, user_vectors
from distill.representations import facts_of

USER, ITEM = "user", "item"
MANIFEST = "manifest.json"
SHORTEST_HALF_LIFE = 0.01
"""Days; the weights of a shorter one would vanish within the range of float64."""


@dataclass(frozen=True)
class PastFacts:
    """What a store holds and what it was made of.

    Attributes:
        data_fingerprint: of the data set.
        log: the log's folder, relative to the store's.
        days: checksum of every logged day that is in it.
        snapshots: days through which their snapshots were trained, in order.
        alignment, half_life_days: as requested.
        taps: taps of the teacher that the representations were made of.
        dim: R, width of a representation.
        user, item: the indexes; None where a group was not asked for.
    """

    data_fingerprint: str
    log: str
    days: dict[int, str]
    snapshots: list[int]
    alignment: str
    half_life_days: float
    taps: list[str]
    dim: int
    user: IndexFacts | None
    item: IndexFacts | None

    @property
    def groups(self) -> dict[str, IndexFacts]:
        """The indexes by group, those that are there."""
        return {name: found for name, found in ((USER, self.user), (ITEM, self.item)) if found is not None}

    def shown(self) -> dict[str, Any]:
        """What a person wants to see of it, by name."""
        sizes = {f"bytes per {name}": round(found.bytes_per_key) for name, found in self.groups.items()}
        return {"representation width": self.dim, **sizes}


def write_past(
    folder: Path,
    data: DataSet,
    log_folder: Path,
    days: Sequence[int],
    request: PastRequest,
    rotations: Mapping[int, np.ndarray],
) -> PastFacts:
    """Write the store that a request asks for, in place of whatever store is there.

    The log is read once a group, and once more when a rotation decides the scale of int8.

    Args:
        folder: where it will lie.
        data: the data set.
        log_folder: the teacher's log, with representations.
        days: logged days, in any order.
        request: what is asked for; how many events of a user are read does not matter.
        rotations: by the day through which a snapshot was trained, float [R, R] into the space of the first day's
            snapshot (`distill.alignment`), which may be absent; read when the request says procrustes.

    Raises:
        LogError: days that do not fit the data set or each other, several snapshots without alignment, a snapshot
            without a rotation (`distill.past_log`).
        UserError: unknown codec or alignment, a half-life too short; the disk is full.
    """
    _check(request)
    logged = LoggedPast(data, log_folder, days, request.alignment, rotations)
    (folder / MANIFEST).unlink(missing_ok=True)
    for group in (folder / USER, folder / ITEM):
        if group.exists():
            shutil.rmtree(group)
    user = item = None
    if request.user_events:
        largest = logged.largest() if logged.rotated and request.codec == "int8" else 1.0
        user = write_index(folder / USER, user_vectors(logged), logged.dim, request.codec, largest)
    if request.item:
        means = item_means(logged, logged.dim, request.half_life_days)
        item = write_index(folder / ITEM, means, logged.dim, "fp16", 1.0)
    facts = PastFacts(
        data_fingerprint=data.fingerprint,
        log=os.path.relpath(log_folder.resolve(), folder.resolve()),
        days={day: manifest.checksum for day, manifest in logged.manifests.items()},
        snapshots=sorted({manifest.trained_through for manifest in logged.manifests.values()}),
        alignment=request.alignment,
        half_life_days=request.half_life_days,
        taps=facts_of(logged.first, log_folder).taps,
        dim=logged.dim,
        user=user,
        item=item,
    )
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(asdict(facts), indent=1) + "\n")
    return facts


def past_is_written(
    folder: Path, data: DataSet, log_folder: Path, days: Sequence[int], request: PastRequest
) -> bool:
    """True when that store is complete, and made of these days of this log as they are now.

    Args:
        folder, data, log_folder, days, request: as in `write_past`.
    """
    try:
        facts = PastStore(folder, data, request).facts
    except LogError:  # whatever is wrong with it, writing it again is the remedy
        return False
    return set(facts.days) == set(days) and (folder / facts.log).resolve() == log_folder.resolve()


class PastStore:
    """Reads a store. Opened by the first look at it; pickled by its arguments.

    Args:
        folder: what `write_past` filled.
        data: the data set of the examples.
        request: what to read.

    Raises:
        LogError: at that first look: no complete store, one of another data set, of other settings or without a group
            asked for, one whose log has changed since, a damaged file.
    """

    def __init__(self, folder: Path, data: DataSet, request: PastRequest):
        self.folder, self.data, self.request = folder, data, request

    def __reduce__(self) -> tuple[type[PastStore], tuple[Path, DataSet, PastRequest]]:
        return PastStore, (self.folder, self.data, self.request)

    @property
    def facts(self) -> PastFacts:
        """What the store holds and what it was made of."""
        return self._opened[0]

    def read(self, user_id: Tensor, item: np.ndarray, timestamp: Tensor, day: int) -> dict[str, Past]:
        """Representations strictly before these examples.

        Args:
            user_id, timestamp: int64 [B]; timestamps in ms.
            item: int64 [B], ids of the schema's item feature.
            day: not needed: an item's days lie before a time when they are over.

        Returns:
            By group: `user`, the last `user_events` of the user's examples that have a representation, oldest first;
            `item`, the item's mean or nothing, its time the last millisecond of the last day in it that had examples.
        """
        _, indexes = self._opened
        keys, limits = {USER: user_id.numpy(), ITEM: item}, _limits(self.request)
        return {
            name: index.last(keys[name], timestamp.numpy(), limits[name]) for name, index in indexes.items()
        }

    @cached_property
    def _opened(self) -> tuple[PastFacts, dict[str, PastIndex]]:
        facts = _read_facts(self.folder)
        self._refuse_other(facts)
        self._refuse_changed_log(facts)
        return facts, {
            name: PastIndex(self.folder / name, facts.groups[name]) for name in _limits(self.request)
        }

    def _refuse_other(self, facts: PastFacts) -> None:
        """Refuse a store that is not what is asked for."""
        request, wanted = self.request, _limits(self.request)
        pairs: dict[str, tuple[Any, Any]] = {
            "data_fingerprint": (facts.data_fingerprint[:12], self.data.fingerprint[:12]),
            "alignment": (facts.alignment, request.alignment),
        }
        if not wanted.keys() <= facts.groups.keys():
            pairs["groups"] = (", ".join(facts.groups), ", ".join(wanted))
        if USER in wanted and facts.user is not None:
            pairs["codec"] = (facts.user.codec, request.codec)
        if ITEM in wanted:
            pairs["half_life_days"] = (facts.half_life_days, request.half_life_days)
        for name, (got, allowed) in pairs.items():
            if got != allowed:
                raise LogError(
                    f"teacher's past {self.folder}: {name}: got a store of {got}, allowed: {allowed}. {_AGAIN}"
                )

    def _refuse_changed_log(self, facts: PastFacts) -> None:
        for day, checksum in facts.days.items():
            path = day_file(self.folder / facts.log, day)
            found = read_manifest(path).checksum
            if found != checksum:
                raise LogError(
                    f"teacher's past {self.folder}: days: got a store of another log of day {day} ({checksum[:12]}), "
                    f"allowed: {found[:12]}, as {path} is now. {_AGAIN}"
                )


_AGAIN = "Write it again (`distill run`)."


def _limits(request: PastRequest) -> dict[str, int]:
    """Most vectors of an example, by group asked for."""
    limits = {USER: request.user_events, ITEM: int(request.item)}
    return {name: limit for name, limit in limits.items() if limit}


def _read_facts(folder: Path) -> PastFacts:
    path = folder / MANIFEST
    if not path.is_file():
        raise LogError(f"teacher's past: no complete store in {folder}. {_AGAIN}")
    try:
        facts = json.loads(path.read_text())
        facts["days"] = {int(day): checksum for day, checksum in facts["days"].items()}
        for name in (USER, ITEM):
            facts[name] = None if facts[name] is None else IndexFacts(**facts[name])
        return PastFacts(**facts)
    except (KeyError, TypeError, ValueError) as error:
        raise LogError(f"teacher's past: {path} is no manifest: {error}. {_AGAIN}") from error


def _check(request: PastRequest) -> None:
    allowed = {"codec": tuple(DTYPES), "alignment": ("procrustes", "none")}
    for name, names in allowed.items():
        if getattr(request, name) not in names:
            raise UserError(f"{name}: got '{getattr(request, name)}', allowed: {', '.join(names)}")
    if request.half_life_days < SHORTEST_HALF_LIFE:
        raise UserError(
            f"half_life_days: got {request.half_life_days}, allowed: at least {SHORTEST_HALF_LIFE}"
        )
    assert _limits(request), "a request for nothing"
