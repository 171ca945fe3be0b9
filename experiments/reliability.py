"""Reliability: what models predict beside what happens, by decile of the prediction. Free of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from distill.cells import POOLED
from distill.predictions import UNKNOWN
from experiments.recorded import RecordedRun
from experiments.summary import Panel

DECILES = 10


@dataclass(frozen=True)
class Decile:
    """A tenth of the rows, ordered by what the model predicts; means over seeds.

    Attributes:
        predicted: mean probability.
        observed: share of positives.
        examples: labelled rows of one seed.
    """

    predicted: float
    observed: float
    examples: int


Reliability = Mapping[tuple[str, str, str], Sequence[Decile]]
"""(cell_id, vertical, task) to deciles, the lowest predictions first."""


def reliability(run: RecordedRun, panels: Iterable[Panel]) -> Reliability:
    """Deciles of every model of some panels on the split to judge by, pooled rows apart.

    Args:
        run: a scored run; its predictions are read.
        panels: of that run.
    """
    wanted: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for panel in panels:
        if panel.vertical != POOLED:
            for entry in panel.entries:
                wanted[entry.cell_id][panel.vertical].append(panel.task)
    found: dict[tuple[str, str, str], list[list[Decile]]] = defaultdict(list)
    for source in run.predictions():
        of_vertical = wanted.get(source.cell.cell_id, {})
        for seed in source.seeds if of_vertical else ():
            predictions = source.read(seed, [run.split])
            for vertical, tasks in of_vertical.items():
                rows = predictions.select(run.split, [vertical])
                for task in dict.fromkeys(tasks):
                    known = rows.labels[task] != UNKNOWN
                    made = deciles(rows.logits[task][known], rows.labels[task][known])
                    found[source.cell.cell_id, vertical, task].append(made)
    return {key: [_mean(tenth) for tenth in zip(*seeds, strict=True)] for key, seeds in found.items()}


def deciles(logit: NDArray[np.floating], label: NDArray[np.integer]) -> list[Decile]:
    """Tenths of the rows by rank of the logit, as equal in size as can be; fewer than ten rows have one each.

    Args:
        logit: [N] float, N > 0.
        label: [N] 0 or 1.
    """
    parts = np.array_split(np.argsort(logit, kind="stable"), min(DECILES, len(logit)))
    probability = expit(np.asarray(logit, np.float64))
    return [Decile(float(probability[rows].mean()), float(label[rows].mean()), len(rows)) for rows in parts]


def calibration_error(tenths: Sequence[Decile]) -> float:
    """Mean distance of predicted and observed rate, deciles weighted by their rows (expected calibration error)."""
    weights = [tenth.examples for tenth in tenths]
    return float(np.average([abs(t.predicted - t.observed) for t in tenths], weights=weights))


def _mean(seeds: Sequence[Decile]) -> Decile:
    predicted, observed = (float(np.mean([getattr(d, n) for d in seeds])) for n in ("predicted", "observed"))
    return Decile(predicted, observed, seeds[0].examples)
