"""Settings of the full model and of every peer, chosen by equally many trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.dataset import DataSet
from distill.load_config import LoadedConfig
from distill.progress import Progress
from experiments.pipeline.environment import git_commit
from experiments.studies.ablation.file import Ablation
from experiments.studies.tables import append_row, beside, read_table
from experiments.studies.trainings import Model, open_model, train
from experiments.studies.trials import macro_logloss

COLUMNS = ("data", "variant", "trial", "settings", "macro_logloss", "seeds", "config_hash", "git_commit")

Trial = tuple[str, int]
"""Name of a tuned model, number of its trial."""


def trials_of(study: Ablation) -> dict[Trial, Mapping[str, Any]]:
    """Every trial of every tuned model."""
    return {
        (name, number): trial
        for name in study.tuned
        for number, trial in enumerate(study.variants[name].trials)
    }


def open_trials(study: Ablation, loaded: Mapping[Trial, LoadedConfig], data: DataSet) -> dict[Trial, Model]:
    """The model of every trial.

    Args:
        study: with equally many trials of each.
        loaded: trial to its experiment.
        data: the prepared data set.
    """
    return {trial: _open(study, trial, loaded[trial], data) for trial in trials_of(study)}


def choose(
    study: Ablation, models: Mapping[Trial, Model], verticals: Sequence[str], progress: Progress
) -> dict[str, Mapping[str, Any]]:
    """The best trial of every tuned model on the tune days; trials that the table holds are not run again.

    Args:
        study: with equally many trials of each.
        models: of `open_trials`.
        verticals: the schema's.
        progress: shown to the user.

    Returns:
        Name to settings; empty when there are no trials.
    """
    scores = _scores(study, models)
    missing = [trial for trial in models if trial not in scores]
    train([models[trial] for trial in missing], "trials", progress)
    for trial in missing:
        score = macro_logloss([models[trial].source], verticals)
        append_row(_table(study), COLUMNS, _row(study, trial, models[trial], score))
    scores = _scores(study, models)
    best = {
        name: min((trial for trial in scores if trial[0] == name), key=lambda trial: scores[trial])
        for name in dict.fromkeys(name for name, _ in models)
    }
    return {name: trials_of(study)[trial] for name, trial in best.items()}


def _open(study: Ablation, trial: Trial, loaded: LoadedConfig, data: DataSet) -> Model:
    name, number = trial
    folder = Path(study.output) / "trials" / f"{name}-{number}"
    return open_model(loaded, name, folder, study.tuning_seeds, data)


def _scores(study: Ablation, models: Mapping[Trial, Model]) -> dict[Trial, float]:
    """Macro log-loss of the trials that the table holds."""
    rows = {
        (row["data"], row["variant"], row["config_hash"], row["seeds"]): float(row["macro_logloss"])
        for row in read_table(_table(study), COLUMNS)
    }
    keys = {
        trial: (study.data, trial[0], model.experiment.config_hash, _seeds(study))
        for trial, model in models.items()
    }
    return {trial: rows[key] for trial, key in keys.items() if key in rows}


def _row(study: Ablation, trial: Trial, model: Model, score: float) -> dict[str, Any]:
    name, number = trial
    settings = json.dumps(study.variants[name].set | study.variants[name].trials[number], sort_keys=True)
    digest = model.experiment.config_hash
    row = (study.data, name, number, settings, f"{score:.6f}", _seeds(study), digest, git_commit())
    return dict(zip(COLUMNS, row, strict=True))


def _seeds(study: Ablation) -> str:
    return " ".join(map(str, study.tuning_seeds))


def _table(study: Ablation) -> Path:
    return beside(Path(study.table), "trials")
