"""From predictions to results.json: base rates, rows, transfer ratios."""

from __future__ import annotations

import json
from collections.abc import Sequence

from distill.cells import write_cells
from distill.errors import UserError
from distill.files import atomic_path
from distill.predictions import CellPredictions, prediction_path
from distill.rates import RateCounter, Rates
from distill.results import Row, write_results
from distill.score_rows import score_rows
from distill.transfer import Losses, transfer_rows
from distill.truth import Truth, read_truth
from experiments.pipeline.environment import git_commit, versions
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.floor import ROLE as FLOOR
from experiments.pipeline.floor import floor_cell
from experiments.pipeline.training import read_report


def base_rates(experiment: Experiment, verticals: Sequence[str] | None = None) -> Rates:
    """p of each (vertical, task) over days 1 to the last tune day, the normaliser of every NE.

    Args:
        experiment: the experiment.
        verticals: to pool over; None for all of the schema.
    """
    schema = experiment.data.schema
    days = range(1, max(experiment.schedule.config.tune_days) + 1)
    counter = RateCounter(schema.domains, verticals or schema.verticals, schema.task_names, days)
    for day in days:
        outcomes = experiment.data.outcomes(day)
        labels = {task: outcomes.labels[:, place] for place, task in enumerate(schema.task_names)}
        counter.update(outcomes.domain, day, labels)
    return counter.rates()


def score(experiment: Experiment, sources: list[CellPredictions]) -> None:
    """Write cells.csv and results.json from the predictions of a run.

    Args:
        experiment: the experiment.
        sources: cells that have predictions.

    Raises:
        UserError: nothing has been predicted yet.
    """
    if not sources:
        raise UserError(f"{experiment.folder}: no predictions to score. Train first (`distill run`).")
    write_scores(experiment, sources, *scored(experiment, sources))


def scored(experiment: Experiment, sources: Sequence[CellPredictions]) -> tuple[list[Row], list[Row]]:
    """Rows and transfer rows of cells that have predictions; nothing is written.

    Args:
        experiment: the experiment.
        sources: at least one cell.
    """
    rates, splits = base_rates(experiment), list(experiment.schedule.scored_days)
    verticals = experiment.data.schema.verticals
    rows = score_rows(sources, verticals, rates, splits, _truth(experiment))
    transfer: list[Row] = []
    for split in splits:
        transfer += transfer_rows(Losses(sources, verticals, rates, split))
    return rows, transfer


def write_scores(
    experiment: Experiment, sources: Sequence[CellPredictions], rows: list[Row], transfer: list[Row]
) -> None:
    """Write cells.csv and results.json of a run that is scored.

    Args:
        experiment: the experiment.
        sources: its cells.
        rows: of `distill.score_rows`.
        transfer: of `distill.transfer`.
    """
    write_cells(experiment.folder / "cells.csv", [source.cell for source in sources])
    write_results(
        experiment.folder / "results.json",
        rows,
        transfer,
        timing=timing(experiment, sources),
        versions=versions(),
        git_commit=git_commit(),
        config_hash=experiment.config_hash,
    )


def predicted_cells(experiment: Experiment, seeds: list[int]) -> list[CellPredictions]:
    """Cells of the experiment that have predictions of all seeds."""
    floor = floor_cell(experiment) if experiment.config.floor else None
    teachers = list(experiment.logged_cells)
    cells = [c for c in (*teachers[:1], floor, *teachers[1:], *experiment.student_cells) if c is not None]
    return [
        CellPredictions(cell, experiment.folder)
        for cell in cells
        if all(prediction_path(experiment.folder, cell, seed).is_file() for seed in seeds)
    ]


def write_metrics(experiment: Experiment, sources: Sequence[CellPredictions]) -> None:
    """Write metrics.jsonl: one line a cell, seed and trained day: mean losses, examples seen, time, FLOPs, MFU."""
    with atomic_path(experiment.folder / "metrics.jsonl") as temporary, temporary.open("w") as file:
        for source in _trained(sources):
            for seed in source.seeds:
                for day in read_report(experiment, source.cell, seed)["days"]:
                    line = {"cell_id": source.cell.cell_id, "seed": seed} | day
                    file.write(json.dumps(line) + "\n")


def _trained(sources: Sequence[CellPredictions]) -> list[CellPredictions]:
    return [source for source in sources if source.cell.role != FLOOR]


def _truth(experiment: Experiment) -> Truth | None:
    if not (experiment.data.folder / "truth").is_dir():
        return None
    days = [day for days in experiment.schedule.scored_days.values() for day in days]
    return read_truth(experiment.data.folder, days)


def timing(
    experiment: Experiment, sources: Sequence[CellPredictions]
) -> dict[str, dict[str, dict[str, float]]]:
    """cell_id -> seed -> seconds, cpu_seconds, examples, parameters, FLOPs."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for source in _trained(sources):
        for seed in source.seeds:
            report = read_report(experiment, source.cell, seed)
            found.setdefault(source.cell.cell_id, {})[str(seed)] = {
                "seconds": report["seconds"],
                "cpu_seconds": report["cpu_seconds"],
                "train_seconds": sum(day["seconds"] for day in report["days"]),
                "examples": report["days"][-1]["examples_seen"],
                "dense_parameters": report["dense_parameters"],
                "table_parameters": report["table_parameters"],
                "flops_per_example": report["flops_per_example"],
                "train_flops": report["train_flops"],
            }
    return found
