"""Scores of a study's models by the rules of every run: base rates, rows, losses with their draws, the truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scipy.special import logit

from distill.interval import Statistic
from distill.measure import Key, measure
from distill.predictions import CellPredictions, Predictions
from distill.progress import Progress
from distill.rates import Rates
from distill.score_rows import score_rows
from distill.truth import Truth, read_truth
from experiments.pipeline.experiment import Experiment
from experiments.studies.trainings import Model, SeedPredictions

ORACLE = "oracle"
"""Name of the simulator's truth among models."""

Measured = Mapping[str, Mapping[Key, Statistic | None]]
"""Model, or ORACLE, to its losses."""


def truth_of(experiment: Experiment) -> Truth | None:
    """True probabilities of the scored days; None for data that have none."""
    if not (experiment.data.folder / "truth").is_dir():
        return None
    days = [day for of_split in experiment.schedule.scored_days.values() for day in of_split]
    return read_truth(experiment.data.folder, days)


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
                yield model, row | asdict(model.cost(row["vertical"], row["seed"]))
            bar.advance(1)


@dataclass(frozen=True)
class OraclePredictions(SeedPredictions):
    """The simulator's true probabilities as if they were a model's.

    Attributes:
        rows: predictions of the same rows.
        truth: of these rows.
    """

    rows: CellPredictions
    truth: Truth

    def read(self, seed: int, splits: Iterable[str]) -> Predictions:
        found = self.rows.read(seed, splits)
        logits = {task: logit(self.truth.of(task, found.example_id)) for task in found.tasks}
        return replace(found, logits=logits)


def measured(
    models: Mapping[str, CellPredictions],
    verticals: Sequence[str],
    rates: Rates,
    split: str,
    truth: Truth | None = None,
) -> Measured:
    """Losses of all models on the same rows of one split.

    Args:
        models: name to predictions of all surfaces, all of the same seeds.
        verticals: the schema's.
        rates: p of each (vertical or "pooled", task).
        split: `tune` or `test`.
        truth: the simulator's; None for real data.
    """
    sources = dict(models)
    first = next(iter(models.values()))
    if truth is not None:
        cell = replace(first.cell, model=ORACLE, role=ORACLE)
        sources[ORACLE] = OraclePredictions(cell, first.run_folder, first.seeds[:1], first, truth)
    found = dict(zip(sources, measure(list(sources.values()), verticals, rates, split), strict=True))
    if truth is not None:
        found[ORACLE] = {key: of and of.shared_by(first.seeds) for key, of in found[ORACLE].items()}
    return found
