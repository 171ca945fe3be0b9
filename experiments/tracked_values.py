"""What a W&B run holds of a cell: curves by day, final scores, transfer, cost, tables. Free of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from distill.cells import Cell
from distill.predictions import CellPredictions
from distill.results import SCORE_COLUMNS, TRANSFER_COLUMNS, Row
from experiments import tracking_keys as keys
from experiments.curves import MEASURES, DayScore, band, day_scores
from experiments.familiarity import Familiarity
from experiments.miscalibration import worst_calibrated
from experiments.recorded import FLOOR, STUDENT, TEACHER, RecordedRun

_SEED_COLUMNS = ("seed", "split", "vertical", "task", *SCORE_COLUMNS)
_SLICE_COLUMNS = ("vertical", "task", "slice", "examples", "positives", "predicted", "calibration")


@dataclass(frozen=True)
class Table:
    """A table of a run.

    Attributes:
        columns: their names.
        rows: as many values each.
    """

    columns: Sequence[str]
    rows: list[list[Any]]


def final_scores(rows: list[Row]) -> dict[str, float | None]:
    """`final/<split>/<vertical>/<task>/<score>`: mean over seeds, and `..._sd`; None where undefined."""
    of_place: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        of_place[row["split"], row["vertical"], row["task"]].append(row)
    found: dict[str, float | None] = {}
    for place, of_seed in of_place.items():
        for column in SCORE_COLUMNS:
            value, name = band(row[column] for row in of_seed), keys.final(*place, column)
            found[name] = value.mean if value else None
            found[f"{name}_sd"] = value.sd if value else None
    return found


def transfer_scores(transfer: list[Row]) -> dict[str, float | None]:
    """`transfer/<split>/<vertical or macro>/<task>/<measure>` and its interval; None where undefined."""
    return {
        keys.transfer(row["split"], row["vertical"], row["task"], row["measure"]) + suffix: row[column]
        for row in transfer
        for suffix, column in (("", "tr"), ("_low", "tr_low"), ("_high", "tr_high"))
    }


def transfer_of(run: RecordedRun, cell: Cell) -> list[Row]:
    """Transfer rows of the cell's student: those of its vertical, and those over all verticals."""
    same = ("model", "schedule", "inputs", "route", "lag", "channel")
    mine = [row for row in run.transfer if all(row[name] == getattr(cell, name) for name in same)]
    return [row for row in mine if cell.role == STUDENT and row["vertical"] in (cell.vertical, "macro")]


def history(run: RecordedRun, cell: Cell) -> dict[int, dict[str, float]]:
    """What to log for each predicted day; empty for a model that is not trained day by day (the floor)."""
    of_day: dict[int, list[DayScore]] = defaultdict(list)
    if any(trained == cell.cell_id for trained, _ in run.trainings):
        for score in day_scores(run, CellPredictions(cell, run.folder)):
            of_day[score.day].append(score)
    return {day: _logged(run, cell, day, scores) for day, scores in sorted(of_day.items())}


def _logged(run: RecordedRun, cell: Cell, day: int, scores: list[DayScore]) -> dict[str, float]:
    logged: dict[str, float] = {keys.EXAMPLES_SEEN: _examples_seen(run, scores[0], day), keys.DAY: day}
    logged |= _speed(run, scores, day)
    of_curve: dict[tuple[str, str, str], list[float | None]] = defaultdict(list)
    for score in scores:
        for measure in MEASURES:
            value, curve = getattr(score, measure), (score.vertical, score.task, measure)
            of_curve[curve].append(value)
            if value is not None:
                logged[keys.seed_curve(score.seed, *curve)] = value
    for curve, values in of_curve.items():
        found, name = band(values), keys.curve(*curve)
        if found:
            logged |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        if found and cell.role == TEACHER:
            logged[keys.teacher_curve(*curve)] = found.mean
    return logged


def _examples_seen(run: RecordedRun, score: DayScore, day: int) -> int:
    """Examples that the model had been trained on when it predicted the day; the same for every seed."""
    days = run.trainings[score.cell_id, score.seed]["days"]
    return max((trained["examples_seen"] for trained in days if trained["day"] < day), default=0)


def _speed(run: RecordedRun, scores: list[DayScore], day: int) -> dict[str, float]:
    """`training/examples_per_s` and `training/mfu` of the last day trained on, means over seeds; what is known."""
    found: dict[str, list[float]] = defaultdict(list)
    for cell_id, seed in {(score.cell_id, score.seed) for score in scores}:
        before = [trained for trained in run.trainings[cell_id, seed]["days"] if trained["day"] < day]
        for name in ("examples_per_s", "mfu"):
            found[name] += [trained[name] for trained in before[-1:] if trained.get(name) is not None]
    return {f"training/{name}": fmean(values) for name, values in found.items() if values}


def cost_of(run: RecordedRun, cell: Cell) -> dict[str, float]:
    """`cost/...`: means over seeds of what the trainings took; empty where nothing was timed (the floor)."""
    cost = run.cost(cell.cell_id)
    return {} if cost is None else {keys.cost(name): cost[name] for name in keys.COSTS}


def tables(
    run: RecordedRun, cell: Cell, rows: list[Row], transfer: list[Row], familiar: Familiarity | None
) -> dict[str, Table]:
    """All rows of results.json, one per seed; transfer with its intervals; the worst calibrated slices.

    Args:
        run: a scored run; the cell's predictions are read.
        cell: which model.
        rows, transfer: those of results.json that are the cell's.
        familiar: of the days that the run is judged by, or None.
    """
    found = {keys.SEEDS_TABLE: _table(_SEED_COLUMNS, rows)}
    if transfer:
        found[keys.TRANSFER_TABLE] = _table(TRANSFER_COLUMNS, transfer)
    if cell.role != FLOOR:
        worst = worst_calibrated(run, CellPredictions(cell, run.folder), familiar)
        values = [[getattr(place, name) for name in _SLICE_COLUMNS] for place in worst]
        found[keys.SLICES_TABLE] = Table(_SLICE_COLUMNS, values)
    return found


def _table(columns: Sequence[str], rows: list[Row]) -> Table:
    return Table(columns, [[row[name] for name in columns] for row in rows])
