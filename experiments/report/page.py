"""Writes the page of a run folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import jinja2

from distill.files import atomic_path
from experiments.quantity import quantity
from experiments.recorded import RecordedRun, read_run
from experiments.report.content import content
from experiments.report.series import style, style_of
from experiments.report.tables import UNDEFINED, interval, signed, spread

REPORT = "report.html"

SECTIONS = {
    "overview": "At a glance",
    "family": "The family",
    "gap": "From student to teacher",
    "scores": "Scores",
    "days": "Day by day",
    "transfer": "How much arrives",
    "reliability": "Reliability",
    "adapters": "What adapters correct",
    "slices": "Old and new users and items",
    "cost": "Cost against quality",
    "students": "The students' settings",
    "wandb": "Runs in Weights & Biases",
    "reproduce": "Reproduce",
}
"""Sections in order: id, which is also the name of the template, to heading."""


def write_report(folder: str | Path) -> Path:
    """Write `report.html` of a run, complete or not.

    Args:
        folder: the run folder.

    Returns:
        The file.

    Raises:
        UserError: not a run folder, or files in it that break their form.
    """
    return write_page(read_run(folder))


def write_page(run: RecordedRun, reload: int | None = None) -> Path:
    """Write `report.html` into the folder of a run.

    Args:
        run: the run.
        reload: seconds after which the page loads itself anew, for a run under way; None for a page that stays.

    Returns:
        The file.
    """
    text = (
        _environment()
        .get_template("page.html")
        .render(
            content(run),
            sections=SECTIONS,
            reload=reload,
            css=_resource("style.css"),
            script=_resource("watch.js"),
        )
    )
    path = run.folder / REPORT
    with atomic_path(path) as temporary:
        temporary.write_text(text)
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"spread": spread, "signed": signed, "quantity": quantity}
    environment.globals |= {
        "interval": interval,
        "style": style,
        "style_of": style_of,
        "UNDEFINED": UNDEFINED,
    }
    return environment


def _resource(name: str) -> str:
    return files("experiments.report").joinpath(name).read_text()
