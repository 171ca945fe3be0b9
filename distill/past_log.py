"""What a store of the teacher's past is made of: logged days, in one space, each example with its user, item and time.

Users, items and times come from the history index, found by example id, so that stored representations and the raw-id
history have one order and one idea of the past.

Shape letters: N examples of a day, E events of the index, I items seen so far, R width of a representation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.dataset import DataSet
from distill.errors import LogError
from distill.history import EventStore
from distill.log_files import day_file, read_manifest
from distill.past_index import Part
from distill.representations import facts_of, read_representations, refuse_other_representation
from distill.sources.events import NO_EXAMPLE

DAY_MS = 86_400_000


@dataclass(frozen=True)
class LoggedDay:
    """One day's representations, in the first snapshot's space.

    Attributes:
        end: ms, the first after the day.
        user_id, item, time: int64 [N]; times in ms.
        values: float32 [N, R].
    """

    end: int
    user_id: np.ndarray
    item: np.ndarray
    time: np.ndarray
    values: np.ndarray


class LoggedPast:
    """Logged days that belong together. Every pass over it reads the log anew, a day at a time.

    Memory: about 32 bytes an event of the index, and one day.

    Args:
        data: the data set that was logged.
        log_folder: where `distill.teacher_log.write_day` wrote.
        days: days wanted, in any order.
        alignment: none, which allows one snapshot only; or procrustes.
        rotations: by the day through which a snapshot was trained, [R, R] into the first snapshot's space, applied from
            the right; the first snapshot may be absent.

    Attributes:
        manifests: of the log, by day, in order.
        dim: R.
        rotated: True when a day is not stored as it was logged.

    Raises:
        LogError: a day that is not logged or has no representation, another data set, days of different forms, several
            snapshots without alignment, a snapshot without a rotation; while iterating, examples that the data set
            lacks or that are of a later day.
    """

    def __init__(
        self,
        data: DataSet,
        log_folder: Path,
        days: Sequence[int],
        alignment: str,
        rotations: Mapping[int, np.ndarray],
    ):
        assert len(days), "a past of no days"
        self.log_folder, self._days = log_folder, data.schema.days
        self.manifests = {day: read_manifest(day_file(log_folder, day)) for day in sorted(days)}
        self._refuse_mixed_forms(data.fingerprint)
        self._refuse_mixed_snapshots(alignment)
        self.first = next(iter(self.manifests.values()))
        self.dim = facts_of(self.first, log_folder).dim
        self._rotations = self._needed(rotations) if alignment == "procrustes" else {}
        self.rotated = bool(self._rotations)
        self._events = EventStore(data.events_folder)
        logged = np.flatnonzero(self._events.example_id != NO_EXAMPLE)
        self._order = logged[np.argsort(self._events.example_id[logged])]
        self._ids = self._events.example_id[self._order]

    def __iter__(self) -> Iterator[LoggedDay]:
        for day, manifest in self.manifests.items():
            stored = read_representations(self.log_folder, day)
            values = stored.values()
            if manifest.trained_through in self._rotations:
                values = values @ self._rotations[manifest.trained_through]
            event = self._event_of(stored.example_id, day)
            user = np.searchsorted(self._events.offsets, event, side="right") - 1
            time, end = self._events.time[event], self._days[day - 1].end_ms
            self._refuse_later(stored.example_id[time >= end], day)
            yield LoggedDay(end, self._events.user_id[user], self._events.item[event], time, values)

    def largest(self) -> float:
        """The largest absolute number of all days, at least 1: an int8 log that is not turned keeps its steps."""
        return max([1.0, *(float(np.abs(day.values).max(initial=0)) for day in self)])

    def _event_of(self, example_id: np.ndarray, day: int) -> np.ndarray:
        place = np.minimum(np.searchsorted(self._ids, example_id), len(self._ids) - 1)
        foreign = self._ids[place] != example_id
        if foreign.any():
            raise LogError(
                f"teacher log {day_file(self.log_folder, day)}: {int(foreign.sum())} foreign ids, the first is "
                f"{example_id[foreign][0]}. Write the log again (`distill log`)."
            )
        return self._order[place]

    def _refuse_later(self, example_id: np.ndarray, day: int) -> None:
        """Refuse examples of later days: as part of this one, an item would show them before they happen."""
        if example_id.size:
            raise LogError(
                f"teacher log {day_file(self.log_folder, day)}: {example_id.size} ids of later days, the first is "
                f"{example_id[0]}. Write the log again (`distill log`)."
            )

    def _refuse_mixed_forms(self, fingerprint: str) -> None:
        first = None
        for day, manifest in self.manifests.items():
            path = day_file(self.log_folder, day)
            if manifest.data_fingerprint != fingerprint:
                raise LogError(
                    f"teacher log {path}: data_fingerprint: got {manifest.data_fingerprint[:12]}, allowed: "
                    f"{fingerprint[:12]}, this data set's. Write the log of this data set (`distill log`)."
                )
            facts = facts_of(manifest, path)
            first = first or facts
            refuse_other_representation(facts, first, path)

    def _refuse_mixed_snapshots(self, alignment: str) -> None:
        """One snapshot unless aligned, and then one checkpoint for each day trained through."""
        snapshots = {(m.trained_through, m.checkpoint) for m in self.manifests.values()}
        throughs = {through for through, _ in snapshots}
        if len(snapshots) == 1 or (alignment == "procrustes" and len(snapshots) == len(throughs)):
            return
        named = ", ".join(f"day {through} ({digest[:12]})" for through, digest in sorted(snapshots))
        allowed = "procrustes, or a log of one snapshot"
        if alignment == "procrustes":
            allowed = "one snapshot for each day trained through. Write the log again (`distill log`)"
        raise LogError(
            f"teacher log {self.log_folder}: alignment: got '{alignment}' with {len(snapshots)} snapshots, trained "
            f"through {named}; their numbers are not comparable. Allowed: {allowed}."
        )

    def _needed(self, rotations: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Rotations of the days' snapshots, float32 [R, R]."""
        throughs = {m.trained_through: None for m in self.manifests.values()}
        missing = [t for t in throughs if t not in rotations and t != self.first.trained_through]
        if missing:
            raise LogError(
                f"teacher log {self.log_folder}: alignment: got 'procrustes' without a rotation of the snapshots "
                f"trained through days {missing}, allowed: one for every snapshot after the first (day "
                f"{self.first.trained_through})."
            )
        found = {t: np.asarray(rotations[t]) for t in throughs if t in rotations}
        for through, matrix in found.items():
            assert matrix.shape == (self.dim, self.dim), (
                f"rotation {through}: {matrix.shape}, not {self.dim} wide"
            )
            assert np.allclose(matrix @ matrix.T, np.eye(self.dim), atol=1e-4), (
                f"rotation {through}: not orthogonal"
            )
        return {through: matrix.astype(np.float32) for through, matrix in found.items()}


def user_vectors(days: Iterable[LoggedDay]) -> Iterator[Part]:
    """Every example's own representation under its user, at its time."""
    for day in days:
        yield day.user_id, day.time, day.values


def item_means(days: Iterable[LoggedDay], width: int, half_life_days: float) -> Iterator[Part]:
    """Every item's decayed mean at the end of every day on which it had examples.

    An example weighs 2^(-age / half-life); between its examples an item's mean stays what it is, since all of its
    weights fade alike, so days without examples need no vector. A vector's time is the last millisecond of its day:
    whatever asks strictly before a time gets days that are over.

    Source: ours; "decayed mean of cross representations" has no published form.

    Args:
        days: in order.
        width: R.
        half_life_days: of 24 hours.
    """
    half_life, end = half_life_days * DAY_MS, 0
    ids, sums = np.zeros(0, np.int64), np.zeros((0, width + 1))  # the last column: the sum of the weights
    for day in days:
        today, of_today = _weighted_sums(day, half_life)
        known = np.union1d(ids, today)
        total = np.zeros((len(known), width + 1))
        total[np.searchsorted(known, ids)] = sums * 0.5 ** ((day.end - end) / half_life)
        place = np.searchsorted(known, today)
        total[place] += of_today
        ids, sums, end = known, total, day.end
        means = total[place, :-1] / total[place, -1:]
        yield today, np.full(len(today), day.end - 1), means.astype(np.float32)


def _weighted_sums(day: LoggedDay, half_life: float) -> tuple[np.ndarray, np.ndarray]:
    """Items of a day, rising, and per item the sums of weighted representations and of weights, [I, R + 1]."""
    order = np.argsort(day.item, kind="stable")
    weight = 0.5 ** ((day.end - day.time[order]) / half_life)[:, None]
    items, first = np.unique(day.item[order], return_index=True)
    weighted = np.concatenate([day.values[order] * weight, weight], axis=1)
    return items, np.add.reduceat(weighted, first, axis=0) if len(first) else weighted
