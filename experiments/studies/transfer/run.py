"""`distill study transfer`: teachers, logs, the students of all slices in one pool, scores; each kept for later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.cells import DOMAIN_TEACHER, write_cells
from distill.dataset import prepare
from distill.files import atomic_path
from distill.progress import Progress
from distill.transfer import STUDENT, TEACHER
from experiments.pipeline.banks import Task
from experiments.pipeline.environment import trace_test_read, versions
from experiments.pipeline.pool import default_workers, run_jobs
from experiments.pipeline.rehearsal import rehearse_all
from experiments.pipeline.run import write_logs
from experiments.pipeline.status import RunStatus
from experiments.pipeline.work import training_jobs
from experiments.studies.files import hash_of
from experiments.studies.transfer.file import CORE, Transfer
from experiments.studies.transfer.load import load_slices
from experiments.studies.transfer.picture import transfer_picture
from experiments.studies.transfer.plan import OpenSlice, lay_out, open_slices
from experiments.studies.transfer.score import Scored, score, write_tables
from experiments.tracking import Tracker, open_tracker


@dataclass(frozen=True)
class Transferred:
    """What a transfer study has found.

    Attributes:
        study: its file.
        split: the one to judge by: `test` of a final run, else `tune`.
        scored: rows of the three tables, every split.
        picture: the SVG that was written.
    """

    study: Transfer
    split: str
    scored: Scored
    picture: Path


def transfer(
    study: Transfer, path: Path, settings: Sequence[str], final: str | None, progress: Progress
) -> Transferred:
    """Do what is missing and write the tables.

    Args:
        study: the file's content.
        path: the file, for messages.
        settings: `--set` arguments of the experiment, as on the command line.
        final: reason for reading the test days; None leaves them alone.
        progress: shown to the user.

    Raises:
        UserError: settings or data that do not fit.
        KeyboardInterrupt: after the output folder was marked as interrupted.
    """
    loaded = load_slices(study, path, settings)
    with RunStatus(Path(study.output), hash_of(loaded), final) as step:
        step("data")
        data = prepare(loaded[CORE].config.data, progress)
        slices = open_slices(loaded, data, final is not None)
        if final is not None:
            trace_test_read(hash_of(loaded), final)
        lay_out(slices)
        step("rehearsal")
        _rehearse(slices, path)
        trackers = {of.name: _describe(of) for of in slices}
        for role, title in (
            (TEACHER, "teachers"),
            (DOMAIN_TEACHER, "domain teachers"),
            (STUDENT, "students"),
        ):
            step(role)
            _train(slices, role, title, trackers, progress)
            _write_logs(slices, role, progress)
        step("score")
        scored = score(study, slices, progress)
        split = list(slices[0].experiment.schedule.scored_days)[-1]
        picture = Path(study.table).with_suffix(".svg")
        write_tables(study, scored)
        transfer_picture(
            study, slices[0].experiment, [row for row in scored.ratios if row["split"] == split], picture
        )
        _record(slices, trackers, progress)
    return Transferred(study, split, scored, picture)


def _rehearse(slices: Sequence[OpenSlice], path: Path) -> None:
    """Build every model of every slice that is still to be trained."""
    rehearse_all(
        {
            f"{path}: {of.name}": [
                (part.experiment, part.cell)
                for part in of.own
                if part.missing(tuple(of.experiment.config.seeds))
            ]
            for of in slices
        }
    )


def _describe(of: OpenSlice) -> Tracker:
    """Say in the run folder what it is about, as a run does, and open its record."""
    folder = of.experiment.folder
    with atomic_path(folder / "config.yaml") as temporary:
        temporary.write_text(of.settings)
    with atomic_path(folder / "versions.json") as temporary:
        temporary.write_text(json.dumps(versions(), indent=1) + "\n")
    write_cells(folder / "cells.csv", [part.cell for part in of.parts])
    return open_tracker(of.experiment, of.settings)


def _train(
    slices: Sequence[OpenSlice], role: str, title: str, trackers: Mapping[str, Tracker], progress: Progress
) -> None:
    """Train what is missing of all models of a role, of all slices and seeds side by side."""
    own = [(of, part) for of in slices for part in of.own if part.cell.role == role]
    for of, part in own:
        trackers[of.name].start(part.cell)
    config = slices[0].experiment.config
    tasks = [Task(part.experiment, part.cell, seed) for _, part in own for seed in config.seeds]
    run_jobs(training_jobs(tasks, config.bank), title, config.workers or default_workers(), progress)


def _write_logs(slices: Sequence[OpenSlice], role: str, progress: Progress) -> None:
    """Logs of the teachers of a role at every slice's lag, with the pasts that its channels ask for."""
    for of in slices:
        teachers = [cell for cell in of.experiment.logged_cells if cell.role == role]
        if teachers:
            write_logs(of.experiment, teachers, progress)


def _record(slices: Sequence[OpenSlice], trackers: Mapping[str, Tracker], progress: Progress) -> None:
    own = [(trackers[of.name], part.cell) for of in slices for part in of.own]
    with progress.task("W&B runs", total=len(own), unit="runs") as bar:
        for tracker, cell in own:
            tracker.finish(cell)
            bar.advance(1)
