"""Gains over `none` on parts of a surface's rows: old and new users, old and new items. Free of torch.

Shape letters: N labelled rows of a surface and task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distill.bootstrap import UserTotals, bootstrap_means
from distill.cells import POOLED
from distill.interval import Estimate, Statistic, difference
from distill.measure import Frame
from distill.predictions import UNKNOWN, CellPredictions
from distill.scores import entropy, logloss_per_row
from experiments.familiarity import GROUPS, Familiarity
from experiments.recorded import FLOOR, STUDENT, RecordedRun
from experiments.summary import Entry, Panel

MIN_ROWS = 100
"""Labelled rows below which a slice has no score: its interval would say nothing."""

Key = tuple[str, str, str, int]
"""(cell_id of the panel's `none`, cell_id, task, group)."""


@dataclass(frozen=True)
class Slice:
    """One group of rows of a student's surface.

    Attributes:
        name: of the group (`GROUPS`).
        examples, positives: labelled rows.
        none: NE of `none`; None under `MIN_ROWS` rows.
        gains: label of an entry to NE of `none` less its own; empty under `MIN_ROWS` rows.
    """

    name: str
    examples: int
    positives: int
    none: float | None = None
    gains: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class SliceTable:
    """A student's slices on one (vertical, task).

    Attributes:
        vertical, task, model: of the panel.
        columns: the entries whose gains are shown.
        slices: those that have rows.
    """

    vertical: str
    task: str
    model: str
    columns: list[Entry]
    slices: list[Slice]


@dataclass(frozen=True)
class _Loss:
    """NE of a cell on a slice, per seed, and the users' totals of its mean over seeds."""

    seeds: tuple[int, ...]
    per_seed: NDArray[np.float64]
    totals: UserTotals


def slice_tables(run: RecordedRun, panels: Iterable[Panel], familiar: Familiarity) -> list[SliceTable]:
    """A table per panel that has a `none`, of the split to judge by.

    Args:
        run: a scored run; its predictions are read.
        panels: of that run.
        familiar: of the days to judge by.

    Raises:
        ScoreError, PredictionError: rows that differ between cells (`distill.measure.Frame`).
        DataError: rows that the data set does not have.
    """
    shown = [panel for panel in panels if panel.vertical != POOLED and panel.none is not None]
    sources = {source.cell.cell_id: source for source in run.predictions()}
    frames = {_none(panel).cell_id: _frame(run, sources, panel) for panel in shown}
    losses: dict[Key, _Loss] = {}
    for none, frame in frames.items():
        here = [panel for panel in shown if _none(panel).cell_id == none]
        rates = {panel.task: panel.entries[0].rows[0]["base_rate"] for panel in here}
        groups = familiar.of(frame.rows.example_id)
        for cell_id in dict.fromkeys(entry.cell_id for panel in here for entry in _columns(panel)):
            found = _losses(run, sources[cell_id], frame, groups, rates)
            losses |= {(none, cell_id, *key): loss for key, loss in found.items()}
    statistics = _statistics(losses)
    return [
        _table(panel, frame, familiar.of(frame.rows.example_id), statistics)
        for panel in shown
        for frame in [frames[_none(panel).cell_id]]
    ]


def _columns(panel: Panel) -> list[Entry]:
    return [entry for entry in panel.entries if entry.role != FLOOR]


def _none(panel: Panel) -> Entry:
    assert panel.none is not None, "panels without `none` have no gains"
    return panel.none


def _frame(run: RecordedRun, sources: dict[str, CellPredictions], panel: Panel) -> Frame:
    """The rows of a student, by its `none`."""
    source = sources[_none(panel).cell_id]
    rows = source.read(source.seeds[0], [run.split]).select(run.split, [panel.vertical])
    return Frame(panel.vertical, rows.take(np.argsort(rows.example_id)))


def _losses(
    run: RecordedRun,
    source: CellPredictions,
    frame: Frame,
    groups: NDArray[np.int8],
    rates: dict[str, float],
) -> dict[tuple[str, int], _Loss]:
    """Of every task with a rate and group with rows enough; a rate of 0 or 1 leaves NE undefined."""
    values: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for seed in source.seeds:
        found = source.read(seed, [run.split]).select(run.split, [frame.name])
        rows = frame.align(found, source.cell, subset=source.cell.role != STUDENT)
        for task, rate in rates.items():
            known, normaliser = rows.labels[task] != UNKNOWN, entropy(rate)
            if normaliser > 0:
                loss = logloss_per_row(rows.logits[task][known], rows.labels[task][known])
                values[task].append(loss / normaliser)
    losses = {}
    for task, per_seed in values.items():
        known = frame.rows.labels[task] != UNKNOWN
        for group in range(len(GROUPS)):
            inside = groups[known] == group
            if inside.sum() >= MIN_ROWS:
                of_seed = np.stack(per_seed)[:, inside]
                totals = _per_user(frame.rows.user_id[known][inside], of_seed.mean(axis=0))
                losses[task, group] = _Loss(source.seeds, of_seed.mean(axis=1), totals)
    return losses


def _per_user(user_id: NDArray[np.int64], value: NDArray[np.float64]) -> UserTotals:
    users, place = np.unique(user_id, return_inverse=True)
    total, rows = np.bincount(place, value), np.bincount(place)
    return UserTotals(users, total.astype(np.float64), rows.astype(np.float64))


def _statistics(losses: dict[Key, _Loss]) -> dict[Key, Statistic]:
    draws = bootstrap_means([loss.totals for loss in losses.values()])
    return {
        key: Statistic(loss.seeds, loss.per_seed, draws[:, column].copy())
        for column, (key, loss) in enumerate(losses.items())
    }


def _table(
    panel: Panel, frame: Frame, groups: NDArray[np.int8], statistics: dict[Key, Statistic]
) -> SliceTable:
    others = [entry for entry in _columns(panel) if not entry.is_none]
    labels, none_id = frame.rows.labels[panel.task], _none(panel).cell_id
    slices = []
    for group, name in enumerate(GROUPS):
        inside = (groups == group) & (labels != UNKNOWN)
        examples, positives = int(inside.sum()), int(labels[inside].sum())
        none = statistics.get((none_id, none_id, panel.task, group))
        if none is not None:
            of_other = {e.label: statistics[none_id, e.cell_id, panel.task, group] for e in others}
            # A teacher of one seed is compared with every seed of `none`.
            gains = {label: difference(none, x.shared_by(none.seeds)) for label, x in of_other.items()}
            slices.append(Slice(name, examples, positives, none.value, gains))
        elif examples:
            slices.append(Slice(name, examples, positives))
    return SliceTable(panel.vertical, panel.task, panel.model, others, slices)
