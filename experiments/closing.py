"""What `distill run` says at its end, in ten lines at most: what was trained, what arrived, what it took, what next.

Free of torch.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from distill.cells import POOLED
from distill.progress import duration
from experiments.curves import band
from experiments.overview import findings
from experiments.quantity import counted, listed, spanned
from experiments.recorded import STUDENT, TEACHER, RecordedRun, read_run
from experiments.summary import panels

LINES = 10


def closing_lines(folder: Path, report: Path) -> list[str]:
    """The summary of a scored run; the last line names the report.

    Args:
        folder: the run folder.
        report: its HTML file.

    Raises:
        UserError: not a run folder, or files in it that break their form.
    """
    run = read_run(folder)
    first = [_trained(run), *_teachers(run)]
    last = [_took(run), *_recorded(run), _next(folder), f"Report: {report}"]
    found = findings(run, panels(run, {}))
    return [*first, *found[: LINES - len(first) - len(last)], *last]


def _trained(run: RecordedRun) -> str:
    return (
        f"{run.name}: {counted(len(run.trainings), 'training')} of {listed('seed', run.seeds)}, {run.schedule}, "
        f"scored on {spanned(run.judged_days)}."
    )


def _teachers(run: RecordedRun) -> list[str]:
    """NE and AUC of the teacher on all verticals; no line without one."""
    of_task: dict[str, list[dict]] = {}
    for row in run.rows:
        if (row["role"], row["vertical"], row["split"]) == (TEACHER, POOLED, run.split):
            of_task.setdefault(row["task"], []).append(row)
    told = []
    for task, rows in of_task.items():
        ne, auc = (band(row[name] for row in rows) for name in ("ne", "auc"))
        if ne is not None and auc is not None:
            told.append(f"{task} NE {ne.mean:.4f}, AUC {auc.mean:.4f}")
    return [f"Teacher on all verticals: {'; '.join(told)}."] if told else []


def _took(run: RecordedRun) -> str:
    seconds = {TEACHER: 0.0, STUDENT: 0.0}
    role = {cell.cell_id: cell.role for cell in run.cells}
    for cell_id, seeds in run.timing.items():
        below = STUDENT if role.get(cell_id) == STUDENT else TEACHER
        seconds[below] += sum(seed["cpu_seconds"] for seed in seeds.values())
    return (
        f"Processor time: {duration(sum(seconds.values()))}, of which teachers {duration(seconds[TEACHER])} "
        f"and students {duration(seconds[STUDENT])}."
    )


def _recorded(run: RecordedRun) -> list[str]:
    """Where the W&B runs are; no line where none are recorded."""
    offline = list((run.folder / "wandb").glob("offline-run-*"))
    if not offline:
        return []
    place = shlex.quote(str(run.folder / "wandb"))
    return [f"W&B, offline: wandb leet {place} shows the runs, wandb sync {place}/offline-* sends them."]


def _next(folder: Path) -> str:
    place = shlex.quote(str(folder))
    return f"Next: distill compare {place}, distill dashboard {place}."
