"""Follows a running experiment: its report is written anew whenever the run has left something behind."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.cells import Cell
from experiments.familiarity import data_folder
from experiments.recorded import FLOOR, RecordedRun, read_run
from experiments.report.page import write_page

if TYPE_CHECKING:
    from experiments.pipeline.experiment import Experiment

SECONDS = 10
"""Between two looks at the folder, and between two reloads of the page."""


def watch(folder: str | Path, wait: Callable[[float], None] = time.sleep) -> Path:
    """Write the report until the run has ended, or until Ctrl-C; the last page no longer reloads itself.

    Args:
        folder: the run folder.
        wait: sleeps for some seconds; tests give their own.

    Returns:
        The report.

    Raises:
        UserError: not a run folder, or files in it that break their form.
    """
    run, seen = read_run(folder), None
    try:
        while run.status.get("state", "running") == "running":
            if (signs := _signs(run)) != seen:
                write_page(so_far(run), reload=SECONDS)
                seen = signs
            wait(SECONDS)
            run = read_run(folder)
    except KeyboardInterrupt:
        return write_page(so_far(run))
    return write_page(so_far(run))


def so_far(run: RecordedRun) -> RecordedRun:
    """A run with the scores of what is trained already, where it has not come to score everything itself.

    Args:
        run: complete or not.

    Returns:
        The run itself when it is complete, or has nothing yet that can be scored: models of all seeds, and their data.
    """
    data = data_folder(run)
    if run.complete or not run.status or data is None or not data.is_dir():
        return run
    # Here, since torch takes seconds to import and a complete run needs none of it.
    from experiments.pipeline.scoring import predicted_cells, scored, timing

    experiment = _experiment(run, data)
    predicted = predicted_cells(experiment, run.seeds)
    trained = [source for source in predicted if _is_trained(run, experiment, source.cell)]
    if not trained:
        return run
    sources = [source for source in predicted if source in trained or source.cell.role == FLOOR]
    rows, transfer = scored(experiment, sources)
    return dataclasses.replace(
        run,
        cells=[source.cell for source in sources],
        rows=rows,
        transfer=transfer,
        timing=timing(experiment, sources),
    )


def _is_trained(run: RecordedRun, experiment: Experiment, cell: Cell) -> bool:
    """True when all seeds have come, with the settings of the run as it goes on now, to the last day of its scores."""
    from experiments.pipeline.training import describes

    reports = {seed: run.trainings.get((cell.cell_id, seed)) for seed in run.seeds}
    return all(
        report is not None
        and describes(report, experiment, cell, seed)
        and report["last_day"] >= experiment.schedule.last_day
        for seed, report in reports.items()
    )


def _experiment(run: RecordedRun, data: Path) -> Experiment:
    """The experiment that the run does, in its own folder."""
    import experiments.catalog  # noqa: F401  fills the registries
    from distill.dataset import DataSet
    from distill.load_config import load_config
    from distill.schedule import Schedule
    from experiments.pipeline.experiment import Experiment

    loaded, opened = load_config(run.folder / "config.yaml"), DataSet.open(data)
    config = dataclasses.replace(loaded.config, output=str(run.folder))
    final = run.status.get("final") is not None
    schedule = Schedule(config.schedule, opened.schema.n_days, final)
    return Experiment(config, loaded.config_hash, loaded.base, opened, schedule)


def _signs(run: RecordedRun) -> tuple[Any, ...]:
    """What changes when the run has left something behind."""
    results = run.folder / "results.json"
    return run.status, sorted(run.trainings), results.stat().st_mtime if results.is_file() else None
