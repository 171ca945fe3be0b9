"""Everything that the page shows of a run, by the names that its templates use."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from distill.cells import DOMAIN_TEACHER
from experiments.curves import DayScore, day_scores
from experiments.familiarity import familiarity_of
from experiments.family import family, sets_of
from experiments.overview import best_channels, findings
from experiments.quantity import spanned
from experiments.recorded import STUDENT, TEACHER, RecordedRun
from experiments.reliability import reliability
from experiments.report.calibration_figures import correction_figures, reliability_figures
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
    SliceGroup,
    cost_rows,
    score_tables,
    slice_groups,
    transfer_table,
)
from experiments.slices import MIN_ROWS, slice_tables
from experiments.summary import Panel, paired_gains, panels


def content(run: RecordedRun) -> dict[str, Any]:
    """Variables of the templates.

    Args:
        run: complete or not.

    Raises:
        UserError: files of the run, or of its data set, that break their form.
    """
    found = panels(run, paired_gains(run)) if run.rows else []
    channels = channels_of(run)
    slices, why_no_slices = _slices(run, found)
    return {
        "run": run,
        "channels": channels,
        **_head(run, channels),
        "bests": best_channels(run, found),
        "findings": findings(run, found),
        "family": family(run),
        "columns": COLUMNS,
        "measures": MEASURES,
        "gaps": gap_figures(found, channels),
        "tables": score_tables(found),
        "days": day_figures(run, found, _curves(run), channels),
        "transfers": transfer_figures(run, channels),
        "transfer_rows": transfer_table(run),
        "reliabilities": reliability_figures(found, reliability(run, found), channels),
        "corrections": correction_figures(run, found, channels),
        "slices": slices,
        "why_no_slices": why_no_slices,
        "min_rows": MIN_ROWS,
        "costs": cost_figures(run, found, channels),
        "cost_rows": cost_rows(run, found),
        **_foot(run),
    }


def _head(run: RecordedRun, channels: list[str]) -> dict[str, Any]:
    return {"state": _state(run), "about": _about(run, channels)}


def _foot(run: RecordedRun) -> dict[str, Any]:
    """What is needed to make it again."""
    described = run.folder / "config.yaml"
    final = run.status.get("final")
    prints = {report.get("data_fingerprint") for report in run.trainings.values()} - {None}
    return {
        "folder": shlex.quote(str(run.folder)),
        "final": shlex.quote(final) if final else "",
        "data_fingerprint": ", ".join(sorted(map(str, prints))),
        "student_yaml": _student_yaml(run),
        "wandb": (run.folder / "wandb").is_dir(),
        "config": described.read_text() if described.is_file() else "",
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
    scored = "what is here is scored" if run.rows else "nothing is scored yet"
    done = f"{len(run.trainings)} of {run.planned}"
    again = "" if run.status.get("state") == "running" else " The same command continues it."
    return f"{start}{error}. {done} trainings are finished; {scored}.{again}"


def _about(run: RecordedRun, channels: list[str]) -> dict[str, str]:
    """Heading to text of the facts under the title."""
    students = list(dict.fromkeys(cell.model for cell in run.cells if cell.role == STUDENT))
    teachers = list(dict.fromkeys(c.model for c in run.cells if c.role in (TEACHER, DOMAIN_TEACHER)))
    verticals = list(dict.fromkeys(cell.vertical for cell in run.cells if cell.role == STUDENT))
    facts = {
        "Teachers" if len(teachers) > 1 else "Teacher": ", ".join(teachers),
        "Students": ", ".join(students),
        "Verticals": ", ".join(verticals),
        "Channels": ", ".join(channels),
        "Seeds": ", ".join(map(str, run.seeds)),
        "Schedule": run.schedule,
        "Scored on": spanned(run.judged_days) if run.judged_days else "",
    }
    return {name: value or UNDEFINED for name, value in facts.items()}


def _curves(run: RecordedRun) -> dict[tuple[str, str, str], list[DayScore]]:
    curves: dict[tuple[str, str, str], list[DayScore]] = {}
    for source in run.predictions():
        for score in day_scores(run, source):
            curves.setdefault((score.cell_id, score.vertical, score.task), []).append(score)
    return curves


def _slices(run: RecordedRun, found: Sequence[Panel]) -> tuple[list[SliceGroup], str]:
    """The slices, or why there are none."""
    if not any(panel.none for panel in found):
        return [], "Nothing is scored yet."
    familiar = familiarity_of(run)
    if isinstance(familiar, str):
        return [], familiar
    return slice_groups(slice_tables(run, found, familiar)), ""


def _student_yaml(run: RecordedRun) -> dict[str, str]:
    """The part of the settings that makes a student, by its name."""
    return {
        settings["name"]: yaml.safe_dump(
            {"students": [settings], "channels": sets_of(run, settings)},
            sort_keys=False,
            width=100,
            allow_unicode=True,
            default_flow_style=None,
        )
        for settings in run.config.get("students") or []
    }
