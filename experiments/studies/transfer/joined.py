"""The students of one condition, a model per vertical, read as one model of all verticals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from distill.cells import ALL
from distill.predictions import CellPredictions
from distill.transfer import STUDENT, Group
from experiments.studies.trainings import JoinedPredictions


def joined(sources: Sequence[CellPredictions], verticals: Sequence[str]) -> dict[Group, JoinedPredictions]:
    """Conditions that have a student on every one of some verticals.

    Args:
        sources: cells with their predictions; roles other than `student` are left out.
        verticals: whose rows are joined.
    """
    members: dict[Group, dict[str, CellPredictions]] = defaultdict(dict)
    for source in sources:
        cell = source.cell
        if cell.role == STUDENT and cell.vertical in verticals:
            group = Group(cell.model, cell.schedule, cell.inputs, cell.route, cell.lag, cell.channel)
            members[group][cell.vertical] = source
    return {
        group: _join([of[vertical] for vertical in verticals])
        for group, of in members.items()
        if len(of) == len(verticals)
    }


def _join(parts: Sequence[CellPredictions]) -> JoinedPredictions:
    first = parts[0]
    return JoinedPredictions(replace(first.cell, vertical=ALL), first.run_folder, first.seeds, tuple(parts))
