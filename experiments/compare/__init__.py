"""Runs beside each other in the terminal: teacher against students, every channel against `none`.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill.errors import UserError
from experiments.compare.details import (
    calibration_table,
    correction_table,
    cost_table,
    slice_tables_of,
)
from experiments.compare.scores import score_table, scored_tasks, transfer_table
from experiments.compare.tables import MARK, Compared, print_table
from experiments.overview import findings
from experiments.quantity import listed
from experiments.recorded import read_run
from experiments.slices import MIN_ROWS
from experiments.summary import paired_gains, panels

__all__ = ["print_comparison"]

_LEGEND = f"""
gain: over none, above 0 is better; {MARK} its 95 % interval (paired by user and seed) excludes 0.
Transfer ratio: a channel's gain as a share of the teacher's; undefined where the teacher's is not clear.
Calibration error: mean distance of predicted and observed rate over deciles of the prediction.
Slices (user/item): gain in NE; old when an earlier day has a row of it; no gain under {MIN_ROWS} rows."""
_WIDE = 1_000  # columns of a pipe, which has no width of its own


def print_comparison(folders: Sequence[Path], console: Console) -> None:
    """Print the runs' findings, then tables of scores, transfer, calibration, corrections, slices and cost.

    Args:
        folders: run folders.
        console: where to; a pipe gets plain text, as wide as it is.

    Raises:
        UserError: no run folder, or a run that is not scored.
    """
    runs = _read(folders)
    if not console.is_terminal:
        console.width = _WIDE
    for each in runs:
        console.print(_head(each), style="bold", highlight=False)
        for line in findings(each.run, each.panels):
            console.print(f"  {line}", highlight=False, markup=False)
    tables = [score_table(runs, *place) for place in _places(runs)]
    tables += [transfer_table(runs, task) for task in scored_tasks(runs)]
    tables += [calibration_table(runs, task) for task in scored_tasks(runs)]
    tables += [correction_table(runs), *slice_tables_of(runs), cost_table(runs)]
    for table in tables:
        print_table(table, console)
    console.print(_LEGEND, highlight=False)


def _read(folders: Sequence[Path]) -> list[Compared]:
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        if not run.rows:
            raise UserError(
                f"{run.folder}: got a run without scores, allowed: scored runs. Finish it (`distill run`)."
            )
    names = [run.name for run in runs]
    unique = len(set(names)) == len(names)
    return [
        Compared(run.name if unique else str(run.folder), run, panels(run, paired_gains(run))) for run in runs
    ]


def _places(runs: Sequence[Compared]) -> list[tuple[str, str]]:
    """(vertical, task) of all scores."""
    return list(dict.fromkeys((panel.vertical, panel.task) for each in runs for panel in each.panels))


def _head(each: Compared) -> str:
    run = each.run
    kind = "final scores" if run.split == "test" else "development scores"
    days = f" of {listed('day', run.judged_days)}" if run.judged_days else ""
    state = "" if run.complete else " (incomplete run)"
    return f"{each.name}: {kind}{days}, {listed('seed', run.seeds)}{state}"
