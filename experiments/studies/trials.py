"""What decides between settings: macro log-loss of the tune days (PROTOCOL.md, "Choosing and testing").

Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

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
