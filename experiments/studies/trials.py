"""What decides between settings: macro log-loss of the tune days (PROTOCOL.md, "Choosing and testing").

Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from distill.cells import ALL
from distill.predictions import UNKNOWN, CellPredictions
from distill.scores import logloss


def macro_logloss(sources: Sequence[CellPredictions], verticals: Sequence[str]) -> float:
    """Mean over models, verticals, tasks and seeds of the tune days' log-loss.

    Args:
        sources: predictions of one setting.
        verticals: the schema's.
    """
    losses = []
    for source in sources:
        own = verticals if source.cell.vertical == ALL else [source.cell.vertical]
        for seed in source.seeds:
            predictions = source.read(seed, ["tune"])
            for vertical in own:
                rows = predictions.select("tune", [vertical])
                for task in rows.tasks:
                    known = rows.labels[task] != UNKNOWN
                    losses.append(logloss(rows.logits[task][known], rows.labels[task][known]))
    return fmean(losses)


def unequal(trials: Mapping[str, Sequence[Any]]) -> str:
    """What to say when not everybody has the same number of trials; empty when everybody has."""
    counts = {name: len(given) for name, given in trials.items()}
    return "" if len(set(counts.values())) <= 1 else ", ".join(f"{n} of {name}" for name, n in counts.items())
