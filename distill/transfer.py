"""Transfer ratio TR = sum over verticals of (L_none - L_x) / sum of (L_none - L_FM): `transfer` of a run.

L is NE, 1 - AUC or NE after intercept (`distill.measure`), a mean over seeds. `none` is the untransferred
student of the same model, vertical, schedule, inputs and lag; FM is the teacher on the same rows: its day-7
snapshot in a frozen schedule, the lag-0 teacher in a progressive one (PROTOCOL.md, "Transfer ratio"). Free of
torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from distill.bootstrap import DRAWS
from distill.cells import Cell
from distill.interval import Estimate, Statistic, combine, difference, ratio
from distill.measure import MEASURES, Key, measure
from distill.predictions import CellPredictions
from distill.rates import Rates
from distill.results import TRANSFER_COLUMNS, Row
from distill.scores import ScoreError

MACRO = "macro"
"""Vertical of a row that sums over all verticals."""

NONE, STUDENT, TEACHER = "none", "student", "teacher"


class Group(NamedTuple):
    """What the students of one channel share; they differ in their vertical."""

    model: str
    schedule: str
    inputs: str
    route: str
    lag: int
    channel: str


class Losses:
    """The measured students and teachers of a run, found by what they are.

    Args:
        sources: cells with their predictions; roles other than `student` and `teacher` are left out.
        verticals, rates, split, draws, bootstrap_seed: see `distill.measure.measure`.

    Raises:
        ScoreError: see `measure`; a cell that is given twice.
        PredictionError: see `measure`.
    """

    def __init__(
        self,
        sources: Sequence[CellPredictions],
        verticals: Sequence[str],
        rates: Rates,
        split: str,
        draws: int = DRAWS,
        bootstrap_seed: int = 0,
    ):
        used = [source for source in sources if source.cell.role in (STUDENT, TEACHER)]
        cells = [source.cell for source in used]
        twice = sorted({str(cell) for cell in cells if cells.count(cell) > 1})
        if twice:
            raise ScoreError(f"cells: got {', '.join(twice)} more than once, allowed: once")
        self.verticals, self.split = tuple(verticals), split
        self._seeds = {source.cell: source.seeds for source in used}
        self._of = dict(
            zip(cells, measure(used, verticals, rates, split, draws, bootstrap_seed), strict=True)
        )

    def groups(self) -> dict[Group, dict[str, Cell]]:
        """The students: group -> vertical -> cell.

        Raises:
            ScoreError: two students of one group and vertical (they differ in their experiment).
        """
        groups: dict[Group, dict[str, Cell]] = defaultdict(dict)
        for cell in self._with_role(STUDENT):
            members = groups[
                Group(cell.model, cell.schedule, cell.inputs, cell.route, cell.lag, cell.channel)
            ]
            if cell.vertical in members:
                raise ScoreError(
                    f"students: got {members[cell.vertical]} and {cell}, allowed: one experiment at a time"
                )
            members[cell.vertical] = cell
        return dict(groups)

    def tasks(self, cells: Mapping[str, Cell]) -> list[str]:
        """Tasks that every one of these cells predicts, in the order of the first."""
        of_cell = [list(dict.fromkeys(task for _, task, _ in self._of[cell])) for cell in cells.values()]
        return [task for task in of_cell[0] if all(task in tasks for tasks in of_cell)]

    def seeds(self, cells: Mapping[str, Cell]) -> int:
        """Number of seeds that all of these cells have."""
        return len(set.intersection(*(set(self._seeds[cell]) for cell in cells.values())))

    def untransferred(self, cell: Cell) -> Cell | None:
        """The student with channel `none` of the same model, vertical, schedule, inputs and lag.

        Nothing reaches it by a route, so one of another route serves as well; one of the same route goes
        first.

        Raises:
            ScoreError: several, and none of the cell's route.
        """
        same = ("model", "vertical", "schedule", "inputs", "lag")
        found = [
            other
            for other in self._with_role(STUDENT)
            if other.channel == NONE and all(getattr(other, name) == getattr(cell, name) for name in same)
        ]
        return _only([other for other in found if other.route == cell.route] or found, f"'none' of {cell}")

    def reference(self, cell: Cell) -> Cell | None:
        """The teacher that is the FM reference of a student.

        Raises:
            ScoreError: several.
        """
        found = [
            teacher
            for teacher in self._with_role(TEACHER)
            if teacher.schedule == cell.schedule and (cell.schedule == "frozen" or teacher.lag == 0)
        ]
        return _only(found, f"FM reference of {cell}")

    def loss(self, cell: Cell | None, key: Key) -> Statistic | None:
        """L of a cell; None when there is no such cell or L is undefined on its rows."""
        return None if cell is None else self._of[cell].get(key)

    def gain(
        self,
        cells: Mapping[str, Cell],
        task: str,
        kind: str,
        of: Callable[[Cell], Cell | None] = lambda cell: cell,
    ) -> Statistic | None:
        """Sum over verticals of L_none - L_x.

        Args:
            cells: vertical -> student.
            task: task name.
            kind: one of `MEASURES`.
            of: what x is, given the student: itself, or `reference`.

        Returns:
            None when one of the losses is missing or undefined.
        """
        terms: list[tuple[float, Statistic]] = []
        for vertical, cell in cells.items():
            key = (vertical, task, kind)
            base, other = self.loss(self.untransferred(cell), key), self.loss(of(cell), key)
            if base is None or other is None:
                return None
            # A teacher of one seed is the reference of all; a student is held to the seeds of its `none`.
            terms += [(1.0, base), (-1.0, other if of(cell) == cell else other.shared_by(base.seeds))]
        return combine(terms)

    def _with_role(self, role: str) -> list[Cell]:
        return [cell for cell in self._of if cell.role == role]


def transfer_rows(losses: Losses) -> list[Row]:
    """The `transfer` rows of one split.

    Args:
        losses: measured cells.

    Returns:
        Dictionaries with `TRANSFER_COLUMNS`, one per (channel but `none`, vertical, task, measure), and one
        with vertical `macro` where the channel has a student on every vertical. `delta_vm` and `delta_fm` are
        numerator and denominator in units of L. `tr` and its interval are None unless the interval of the
        denominator lies above 0; a delta is None when its `none`, its teacher or a loss does not exist. With
        `seeds` = 1 the interval counts the bootstrap alone.

    Raises:
        ScoreError: seeds that differ between x and `none`; a teacher with neither these seeds nor just one;
            ambiguous references.
    """
    rows = []
    for group, cells in losses.groups().items():
        if group.channel == NONE:
            continue
        parts = {vertical: {vertical: cells[vertical]} for vertical in losses.verticals if vertical in cells}
        if set(cells) == set(losses.verticals):
            parts[MACRO] = cells
        for vertical, members in parts.items():
            for task in losses.tasks(members):
                for kind in MEASURES:
                    row = _transfer(losses, members, task, kind)
                    row |= group._asdict() | {
                        "vertical": vertical,
                        "task": task,
                        "split": losses.split,
                        "measure": kind,
                    }
                    rows.append({column: row[column] for column in TRANSFER_COLUMNS})
    return rows


def differences(
    pairs: Sequence[tuple[CellPredictions, CellPredictions]],
    verticals: Sequence[str],
    rates: Rates,
    split: str,
    draws: int = DRAWS,
    bootstrap_seed: int = 0,
) -> list[dict[Key, Estimate | None]]:
    """L_a - L_b of pairs (a, b) of cells, paired by seed and user; above 0 means that b is better.

    Args:
        pairs: cells of any run folders, with the same rows on common verticals and the same seeds; a teacher
            of one seed is compared with every seed of the other.
        verticals, rates, split, draws, bootstrap_seed: see `distill.measure.measure`.

    Returns:
        For each pair, (vertical or "pooled", task, measure) -> estimate, whose `excludes_zero` marks
        significance; None where a loss is undefined. Keys that only one of the two has are absent.

    Raises:
        ScoreError: rows, labels or seeds that differ, and whatever `measure` raises.
    """
    sources = list(dict.fromkeys(source for pair in pairs for source in pair))
    of = dict(zip(sources, measure(sources, verticals, rates, split, draws, bootstrap_seed), strict=True))
    return [
        {key: _difference(a.cell, of[a][key], b.cell, of[b][key]) for key in of[a] if key in of[b]}
        for a, b in pairs
    ]


def _transfer(losses: Losses, cells: Mapping[str, Cell], task: str, kind: str) -> Row:
    numerator = losses.gain(cells, task, kind)
    denominator = losses.gain(cells, task, kind, of=losses.reference)
    tr = None if numerator is None or denominator is None else ratio(numerator, denominator)
    return {
        "tr": tr and tr.value,
        "tr_low": tr and tr.low,
        "tr_high": tr and tr.high,
        "delta_vm": None if numerator is None else numerator.value,
        "delta_fm": None if denominator is None else denominator.value,
        "seeds": losses.seeds(cells),
    }


def _difference(a: Cell, loss_a: Statistic | None, b: Cell, loss_b: Statistic | None) -> Estimate | None:
    if loss_a is None or loss_b is None:
        return None
    if a.role == TEACHER and len(loss_a.seeds) == 1:
        loss_a = loss_a.shared_by(loss_b.seeds)
    elif b.role == TEACHER and len(loss_b.seeds) == 1:
        loss_b = loss_b.shared_by(loss_a.seeds)
    return difference(loss_a, loss_b)


def _only(found: Sequence[Cell], what: str) -> Cell | None:
    if len(found) > 1:
        raise ScoreError(
            f"{what}: got {len(found)}: {', '.join(map(str, found))}; allowed: one. Score them apart"
        )
    return found[0] if found else None
