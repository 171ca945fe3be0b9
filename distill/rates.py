"""Base rates p of each (vertical, task) over the training days: the normaliser of NE. Free of torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from distill.cells import row_sets
from distill.scores import ScoreError

Rates = Mapping[str, Mapping[str, float]]
"""Vertical's name or "pooled" -> task -> p."""


class RateCounter:
    """Counts labels of the training days; feed it the rows of any part of the data set, each row once.

    Args:
        domains: names of the domains; the rows hold indices into them.
        verticals: the domains to give rates for.
        tasks: task names.
        days: day numbers that count, 1-11 in the protocol; rows of other days are ignored.
    """

    def __init__(
        self, domains: Sequence[str], verticals: Sequence[str], tasks: Sequence[str], days: Collection[int]
    ):
        self._domains, self._verticals, self._tasks = tuple(domains), tuple(verticals), tuple(tasks)
        self._days = np.asarray(sorted(days))
        self._rows = {task: np.zeros(len(self._domains), dtype=np.int64) for task in self._tasks}
        self._positives = {task: np.zeros(len(self._domains), dtype=np.int64) for task in self._tasks}

    def update(self, domain: ArrayLike, day: ArrayLike, labels: Mapping[str, ArrayLike]) -> None:
        """Add rows.

        Args:
            domain: [N] index into the domains.
            day: [N], or one number for all rows.
            labels: task -> [N] final labels 0 or 1; negative = unknown, not counted.

        Raises:
            ScoreError: lengths that differ, a domain out of range, a label that is no label, a task without
                labels.
        """
        codes = np.asarray(domain, dtype=np.int64)
        if codes.size and not 0 <= codes.min() <= codes.max() < len(self._domains):
            raise ScoreError(
                f"domain: got {codes.min()} to {codes.max()}, allowed: [0, {len(self._domains)})"
            )
        counted = np.isin(np.broadcast_to(np.asarray(day), codes.shape), self._days)
        for task in self._tasks:
            if task not in labels:
                raise ScoreError(f"labels: got tasks {', '.join(labels)}, allowed: {', '.join(self._tasks)}")
            label = np.asarray(labels[task])
            if label.shape != codes.shape or not np.isin(label[label >= 0], (0, 1)).all():
                raise ScoreError(
                    f"labels of {task}: allowed: {codes.shape} values of 0, 1 or negative (unknown)"
                )
            known = counted & (label >= 0)
            self._rows[task] += np.bincount(codes[known], minlength=len(self._domains))
            self._positives[task] += np.bincount(codes[known & (label == 1)], minlength=len(self._domains))

    def rates(self) -> dict[str, dict[str, float]]:
        """The rates so far.

        Returns:
            Vertical or "pooled" -> task -> p = positives / rows; pooled = over the rows of all verticals.

        Raises:
            ScoreError: a vertical without a single labelled row in those days.
        """
        return {
            name: {task: self._rate(name, task, members) for task in self._tasks}
            for name, members in row_sets(self._verticals).items()
        }

    def _rate(self, name: str, task: str, members: Sequence[str]) -> float:
        codes = [self._domains.index(member) for member in members]
        rows = int(self._rows[task][codes].sum())
        if not rows:
            raise ScoreError(
                f"base rate of ({name}, {task}): no labelled row in days {self._days.tolist()}, "
                "allowed: at least one. Take the vertical out of the schema's verticals, or check its labels"
            )
        return int(self._positives[task][codes].sum()) / rows


def base_rate(rates: Rates, vertical: str, task: str) -> float:
    """p of a (vertical, task); ScoreError naming both when there is none."""
    if task not in rates.get(vertical, {}):
        known = ", ".join(f"({v}, {t})" for v, of_tasks in rates.items() for t in of_tasks)
        raise ScoreError(f"base rate: got none for ({vertical}, {task}), allowed: {known}")
    return rates[vertical][task]
