"""What training on a day may learn from while some outcomes are still on their way. Free of torch.

Training on a day happens at its end, `now`. A label is matured when its task's window has closed by then. Of the last
rows of a day the window is still open, and three rules (`delayed_labels`) treat them differently:

- `matured`: they are left out. A label counts from the later of its own time and its window's end, so that what is
  left out depends on a row's time alone and says nothing about its outcome.
- `weighted`: an outcome seen so far counts more, by the chance of having been seen. Let e = now - timestamp, y the
  final label, D the time until an outcome of 1 becomes known, and F(e) = P(D <= e | y = 1). What is seen is
  o = y 1[D <= e]; the target is o / F(e). When D does not depend on the features x,

      E[o / F(e) | x] = P(y = 1 | x) P(D <= e | y = 1) / F(e) = P(y = 1 | x),

  and cross-entropy is linear in its target t, loss(z, t) = log(1 + exp(z)) - t z with gradient sigmoid(z) - t: loss and
  gradient have the expectation that they have with the final labels. This is the inverse propensity estimator of Saito
  et al. (Dual Learning Algorithm for Delayed Conversions, SIGIR 2020, arXiv 1910.01847), with F counted and not learned
  (ours): from outcomes of earlier days that are matured by now, of all surfaces together.
  Targets reach 1 / F(e), and the variance grows with them. Rows so young that F(e) < 1 / LARGEST_TARGET are left out:
  capping 1 / F(e) instead would make their expected target P(y = 1 | x) F(e) LARGEST_TARGET, too small by up to
  everything; leaving them out costs those rows and no bias, since their time alone decides.
  An outcome known to be 0 early (no click, so no conversion) counts as 0 like one that is not seen yet: the estimate
  stays unbiased, and the mask says nothing about outcomes. So does a label that is missing because the log was exported
  while its window was open: without these rows those of outcomes seen so far would remain, and targets of 1 / F(e)
  alone. A label that is missing though its window had closed is not known and stays out.
- `final`: the final labels, whatever their time: the future. A control for simulated data.

Shape letters: R rows, K tasks, n buckets of delays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from distill.config import DelayedLabels
from distill.dataset import DataSet
from distill.errors import UserError
from distill.rows import UNKNOWN, Rows, open_windows, usable
from distill.schema import FeatureSchema

SIMULATED = "simulator"
"""The source whose data may be trained on by final labels."""

NOT_SIMULATED = (
    "matured, weighted: `final` trains on labels from the future, a control for simulated data alone"
)
"""What is allowed for other data, in words."""

LARGEST_TARGET = 10.0
"""Rows of which a smaller share than 1 / LARGEST_TARGET of the outcomes would have been seen are left out."""

FEWEST = 400
"""Matured outcomes of 1 that F is counted from at least; they leave F = 0.1 a standard error of 0.015."""

_BUCKETS = 96
_FINEST = 4096  # the first bucket is the window divided by this; each of the others is 9 % longer than the one before

_LOGGER = logging.getLogger(__name__)


class Targets(NamedTuple):
    """What training on a day learns from.

    Attributes:
        labels: float32 [R, K], 0 where there is none.
        mask: bool [R, K], where there is one.
        matured: bool [R, K], where that is a matured label, whatever the rule; part of the mask.
    """

    labels: np.ndarray
    mask: np.ndarray
    matured: np.ndarray


class LabelRule(Protocol):
    """Which labels of which rows training on a day learns from."""

    @property
    def kind(self) -> str:
        """Its name; in configs, where it has one there."""

    def __call__(self, rows: Rows, day: int) -> Targets:
        """What training on a day learns from these rows."""


def label_rule(kind: DelayedLabels, data: DataSet) -> LabelRule:
    """The rule of that name for a data set.

    Args:
        kind: `matured`, `weighted` or `final`.
        data: the data set.

    Raises:
        UserError: `final` for data that are not simulated.
    """
    if kind == "weighted":
        return Weighted(data.schema, DelayCounts(data))
    if kind == "matured":
        return Matured(data.schema)
    if data.source != SIMULATED:
        raise UserError(
            f"delayed_labels: got 'final' for the source '{data.source}', allowed: {NOT_SIMULATED}"
        )
    return Final(data.schema)


@dataclass(frozen=True)
class Matured:
    """Labels whose window has closed; the others are left out.

    Args:
        schema: the data set's schema.
    """

    schema: FeatureSchema
    kind: DelayedLabels = field(default="matured", init=False)

    def __call__(self, rows: Rows, day: int) -> Targets:
        matured = usable(rows, self.schema.days[day - 1].end_ms)
        return Targets(_labels(rows, matured), matured, matured)


@dataclass(frozen=True)
class Final:
    """The final labels; a control.

    Args:
        schema: the data set's schema.
    """

    schema: FeatureSchema
    kind: DelayedLabels = field(default="final", init=False)

    def __call__(self, rows: Rows, day: int) -> Targets:
        known = rows.labels != UNKNOWN
        return Targets(_labels(rows, known), known, usable(rows, self.schema.days[day - 1].end_ms))


@dataclass(frozen=True)
class Weighted:
    """Matured labels, and of rows whose window is open what is seen, divided by the chance of seeing it.

    On a day before which too few outcomes are matured (the first one always) it is as `Matured`.

    Args:
        schema: the data set's schema.
        counts: the data set's delays.
    """

    schema: FeatureSchema
    counts: DelayCounts
    kind: DelayedLabels = field(default="weighted", init=False)

    def __call__(self, rows: Rows, day: int) -> Targets:
        now = self.schema.days[day - 1].end_ms
        matured = usable(rows, now)
        targets, mask = _labels(rows, matured), matured.copy()
        told = (rows.labels != UNKNOWN) | open_windows(rows, self.schema, self.schema.days[-1].end_ms)
        waiting = open_windows(rows, self.schema, now) & told
        for k, task in enumerate(self.schema.tasks.values()):
            young = waiting[:, k]
            delays = self.counts.until(day, task.name) if young.any() else None
            if delays is not None:
                share = delays.share(now - rows.timestamp)
                young &= share >= 1 / LARGEST_TARGET
                seen = (rows.labels[:, k] == 1) & (rows.seen[:, k] <= now)
                targets[young, k] = seen[young] / share[young]
                mask[:, k] |= young
        return Targets(targets, mask, matured)


@dataclass(frozen=True)
class Unlabelled:
    """No label at all: rows that a model learns from by other means.

    Args:
        schema: the data set's schema.
    """

    schema: FeatureSchema
    kind: str = field(default="none", init=False)

    def __call__(self, rows: Rows, day: int) -> Targets:
        nothing = np.zeros(rows.labels.shape, bool)
        return Targets(_labels(rows, nothing), nothing, nothing)


def _labels(rows: Rows, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, rows.labels, 0).astype(np.float32)


@dataclass(frozen=True)
class DelayDistribution:
    """F: the share of a task's outcomes that is known after a time.

    Attributes:
        edges: float64 [n + 1] ms, from 0 to the window.
        counts: int64 [n + 2]: outcomes known at once; after edges[i] and up to edges[i + 1]; at the window's end or
            later.
    """

    edges: np.ndarray
    counts: np.ndarray

    def share(self, elapsed: np.ndarray) -> np.ndarray:
        """F at these times since the example, linear between the edges.

        Args:
            elapsed: int64 [R] ms, within the window.

        Returns:
            float64 [R].
        """
        return np.interp(elapsed, self.edges, self.counts[:-1].cumsum() / self.counts.sum())


class DelayCounts:
    """Counts how long a data set's outcomes took to become known; each day is read once, and when it is asked for.

    Args:
        data: the data set.
    """

    def __init__(self, data: DataSet):
        self.data = data
        self._days: dict[int, dict[str, np.ndarray]] = {}
        self._found: dict[tuple[int, str], DelayDistribution | None] = {}

    def until(self, day: int, task: str) -> DelayDistribution | None:
        """Delays of the outcomes of the days before `day` whose labels are matured at its end.

        Args:
            day: the day that is trained on.
            task: name of the task.

        Returns:
            The distribution; None, and a line in the log, when there are fewer than FEWEST such outcomes.
        """
        if (day, task) not in self._found:
            self._found[day, task] = self._until(day, task)
        return self._found[day, task]

    def _until(self, day: int, task: str) -> DelayDistribution | None:
        counts = np.zeros(_BUCKETS + 2, np.int64)
        for earlier in range(1, day):
            # Of a day's rows, those matured at its own end, at the next day's end, and so on until now.
            counts += self._of(earlier)[task][: day - earlier + 1].sum(axis=0)
        if counts.sum() >= FEWEST:
            return DelayDistribution(_edges(self.data.schema.tasks[task].window_ms), counts)
        _LOGGER.log(
            logging.INFO if day == 1 else logging.WARNING,
            "delayed_labels, day %d, %s: %d matured outcomes of 1 on earlier days, at least %d are needed: rows whose "
            "window is still open are left out",
            *(day, task, counts.sum(), FEWEST),
        )
        return None

    def _of(self, day: int) -> dict[str, np.ndarray]:
        """Task to counts [days until matured + 1, n + 2] of a day's outcomes of 1."""
        if day not in self._days:
            schema = self.data.schema
            ends = np.array([info.end_ms for info in schema.days])
            counts = {task: np.zeros((len(ends), _BUCKETS + 2), np.int64) for task in schema.tasks}
            for rows in self.data.label_rows(day):
                for k, task in enumerate(schema.tasks.values()):
                    counts[task.name] += _count(rows, k, task.window_ms, ends[day - 1 :], len(ends))
            self._days[day] = {task: _without_empty_end(table) for task, table in counts.items()}
        return self._days[day]


def _count(rows: Rows, k: int, window_ms: int, ends: np.ndarray, days: int) -> np.ndarray:
    """int64 [days, n + 2]: outcomes of 1 by the number of days until they are matured, and by delay."""
    positive = rows.labels[:, k] == 1
    late = np.searchsorted(ends, rows.matures[positive, k])  # the first day's end that is not before it
    delay = rows.seen[positive, k] - rows.timestamp[positive]
    bucket = np.searchsorted(_edges(window_ms), delay)
    bucket[delay >= window_ms] = _BUCKETS + 1
    bucket[delay <= 0] = 0
    in_time = late < len(ends)
    cells = (late * (_BUCKETS + 2) + bucket)[in_time]
    return np.bincount(cells, minlength=days * (_BUCKETS + 2)).reshape(days, -1)


def _without_empty_end(table: np.ndarray) -> np.ndarray:
    filled = np.flatnonzero(table.any(axis=1))
    return table[: filled[-1] + 1 if len(filled) else 0].copy()


def _edges(window_ms: int) -> np.ndarray:
    """0, then _BUCKETS edges whose ratio is constant, the window last; float64 [n + 1]."""
    return np.concatenate([[0.0], max(window_ms, 1) * np.geomspace(1 / _FINEST, 1, _BUCKETS)])
