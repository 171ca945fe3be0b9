"""Reads a run folder and fills the page."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from distill.files import atomic_path
from experiments.curves import DayScore, day_scores
from experiments.recorded import STUDENT, TEACHER, RecordedRun, read_run
from experiments.report.figures import (
    MEASURES,
    channels_of,
    cost_figures,
    day_figures,
    gap_figures,
    transfer_figures,
)
from experiments.report.tables import (
    COLUMNS,
    UNDEFINED,
    interval,
    score_tables,
    signed,
    spread,
    transfer_table,
)
from experiments.summary import Panel, paired_gains, panels

REPORT = "report.html"


def write_report(folder: str | Path) -> Path:
    """Write `report.html` of a run, complete or not.

    Args:
        folder: the run folder.

    Returns:
        The file.

    Raises:
        UserError: not a run folder, or files in it that break their form.
    """
    run = read_run(folder)
    page = _environment().get_template("page.html").render(_content(run))
    path = run.folder / REPORT
    with atomic_path(path) as temporary:
        temporary.write_text(page)
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"spread": spread, "signed": signed}
    environment.globals |= {"interval": interval, "UNDEFINED": UNDEFINED}
    return environment


def _content(run: RecordedRun) -> dict[str, Any]:
    found = panels(run, paired_gains(run)) if run.rows else []
    channels = channels_of(run)
    return {
        "run": run,
        "css": files("experiments.report").joinpath("style.css").read_text(),
        "folder": shlex.quote(str(run.folder)),
        "final": shlex.quote(run.status.get("final") or "") if run.status.get("final") else "",
        "state": _state(run),
        "about": _about(run, channels),
        "columns": COLUMNS,
        "measures": MEASURES,
        "gaps": gap_figures(found, channels),
        "tables": score_tables(found),
        "days": day_figures(run, found, _curves(run), channels),
        "transfers": transfer_figures(run, channels),
        "transfer_rows": transfer_table(run),
        "costs": cost_figures(run, found, channels),
        "cost_rows": _cost_rows(run, found),
        "wandb": (run.folder / "wandb").is_dir(),
        "config": _config(run),
    }


def _state(run: RecordedRun) -> str:
    """What is missing, as a sentence; empty for a complete run."""
    if run.complete and run.status.get("state", "done") == "done":
        return ""
    words = {
        "running": "This run has not ended",
        "interrupted": "This run was interrupted",
        "failed": "This run failed",
    }
    start = words.get(run.status.get("state", ""), "This run is not complete")
    error = f": {str(run.status['error']).rstrip('.')}" if run.status.get("error") else ""
    scored = "they are scored" if run.rows else "nothing is scored yet"
    done = f"{len(run.trainings)} of {run.planned}"
    return f"{start}{error}. {done} trainings are finished; {scored}. The same command continues it."


def _about(run: RecordedRun, channels: list[str]) -> dict[str, str]:
    """Heading to text of the facts under the title."""
    students = list(dict.fromkeys(cell.model for cell in run.cells if cell.role == STUDENT))
    teachers = list(dict.fromkeys(cell.model for cell in run.cells if cell.role == TEACHER))
    verticals = list(dict.fromkeys(cell.vertical for cell in run.cells if cell.role == STUDENT))
    schedule = run.config.get("schedule") or {}
    facts = {
        "Teacher": ", ".join(teachers),
        "Students": ", ".join(students),
        "Verticals": ", ".join(verticals),
        "Channels": ", ".join(channels),
        "Seeds": ", ".join(map(str, run.seeds)),
        "Schedule": f"{schedule['kind']}, lag {schedule['lag']}" if schedule else "",
        "Scored on": f"days {_days(run.judged_days)}" if run.judged_days else "",
    }
    return {name: value or UNDEFINED for name, value in facts.items()}


def _days(days: list[int]) -> str:
    run_of_days = len(days) > 1 and days == list(range(days[0], days[-1] + 1))
    return f"{days[0]}–{days[-1]}" if run_of_days else ", ".join(map(str, days))


def _curves(run: RecordedRun) -> dict[tuple[str, str, str], list[DayScore]]:
    curves: dict[tuple[str, str, str], list[DayScore]] = {}
    for source in run.predictions():
        for score in day_scores(run, source):
            curves.setdefault((score.cell_id, score.vertical, score.task), []).append(score)
    return curves


def _cost_rows(run: RecordedRun, found: list[Panel]) -> list[dict[str, Any]]:
    """One row per timed cell, in the order of the panels."""
    entries = {entry.cell_id: (panel, entry) for panel in found for entry in panel.entries}
    rows = []
    for cell_id, (panel, entry) in entries.items():
        cost = run.cost(cell_id)
        if cost is not None:
            vertical = panel.vertical if entry.is_student else "all"
            name = panel.model if entry.is_student else entry.model
            rows.append({"model": name, "vertical": vertical, "label": entry.label, **cost})
    return rows


def _config(run: RecordedRun) -> str:
    path = run.folder / "config.yaml"
    return path.read_text() if path.is_file() else ""
