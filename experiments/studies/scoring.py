"""Scores of a study's models by the rules of every run: base rates, rows, the simulator's truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from distill.progress import Progress
from distill.rates import Rates
from distill.score_rows import score_rows
from distill.truth import Truth, read_truth
from experiments.pipeline.experiment import Experiment
from experiments.studies.trainings import Model


def truth_of(experiment: Experiment) -> Truth | None:
    """True probabilities of the scored days; None for data that have none."""
    if not (experiment.data.folder / "truth").is_dir():
        return None
    return read_truth(
        experiment.data.folder, [d for days in experiment.schedule.scored_days.values() for d in days]
    )


def scored(
    models: Sequence[Model], rates: Rates, splits: Sequence[str], truth: Truth | None, progress: Progress
) -> Iterator[tuple[Model, dict[str, Any]]]:
    """Every row of every model (`distill.score_rows`), with its cost.

    Args:
        models: trained; of one data set and schedule.
        rates: p of each (vertical or "pooled", task).
        splits: to score.
        truth: the simulator's; None for real data.
        progress: shown to the user.
    """
    with progress.task("scores", total=len(models), unit="models") as bar:
        for model in models:
            verticals = model.experiment.data.schema.verticals
            for row in score_rows([model.source], verticals, rates, splits, truth):
                cost = model.cost(row["vertical"], row["seed"])
                took = {name: getattr(cost, name) for name in ("params", "flops_per_example", "cpu_seconds")}
                yield model, row | took
            bar.advance(1)
