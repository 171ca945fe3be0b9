"""`distill study ablation`: trials, trainings, scores, differences, each kept for the next call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.dataset import DataSet, prepare
from distill.load_config import LoadedConfig
from distill.progress import Progress
from experiments.pipeline.environment import trace_test_read
from experiments.pipeline.scoring import base_rates
from experiments.pipeline.status import RunStatus
from experiments.studies.ablation import differences
from experiments.studies.ablation.choose import Trial, choose, open_trials, trials_of
from experiments.studies.ablation.file import Ablation
from experiments.studies.ablation.picture import ablation_picture
from experiments.studies.files import hash_of, load_all, overrides
from experiments.studies.scoring import measured, scored, truth_of
from experiments.studies.tables import beside, replace_rows
from experiments.studies.trainings import Model, open_model, rehearse, train

COLUMNS = (
    *("data", "variant", "vertical", "task", "seed", "split", "examples", "base_rate", "constant_logloss"),
    *(
        "ne",
        "logloss",
        "auc",
        "gauc",
        "calibration",
        "params",
        "flops_per_example",
        "cpu_seconds",
        "oracle_ne",
    ),
)


@dataclass(frozen=True)
class Ablated:
    """What an ablation has found.

    Attributes:
        study: its file.
        split: the one to judge by: `test` of a final run, else `tune`.
        chosen: tuned model to the trial taken.
        rows: with `COLUMNS`, every split.
        differences: with `differences.COLUMNS`, every split.
        picture: the SVG that was written.
    """

    study: Ablation
    split: str
    chosen: Mapping[str, Mapping[str, Any]]
    rows: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    picture: Path


def ablate(
    study: Ablation, path: Path, settings: Sequence[str], final: str | None, progress: Progress
) -> Ablated:
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
    common = [*overrides(study.set), *settings]
    trials = _load_trials(study, path, common)
    # With each tuned model's first trial: what is wrong with a variant shows before hours of trials.
    first = {name: trial for (name, number), trial in trials_of(study).items() if number == 0}
    loaded = _load_variants(study, path, common, first)
    with RunStatus(Path(study.output), hash_of(loaded), final) as step:
        step("data")
        data = prepare(loaded[study.full].config.data, progress)
        tried = open_trials(study, trials, data)
        places = {f"{path}: variants.{name}.trials[{number}]": of for (name, number), of in tried.items()}
        variants = {f"{path}: variants.{of.name}": of for of in _open(study, loaded, data, final is not None)}
        step("rehearsal")
        rehearse(variants | places)
        step("trials")
        chosen = choose(study, tried, data.schema.verticals, progress)
        loaded = _load_variants(study, path, common, chosen)
        models = _open(study, loaded, data, final is not None)
        if final is not None:
            trace_test_read(hash_of(loaded), final)
        step("train")
        train(models, "variants", progress)
        step("score")
        return _score(study, models, chosen, final, progress)


def _load_trials(study: Ablation, path: Path, common: Sequence[str]) -> dict[Trial, LoadedConfig]:
    arguments = {
        f"{name}, trial {number}": study.arguments(name, {name: trial})
        for (name, number), trial in trials_of(study).items()
    }
    return dict(zip(trials_of(study), load_all(study, path, arguments, common).values(), strict=True))


def _load_variants(
    study: Ablation, path: Path, common: Sequence[str], chosen: Mapping[str, Mapping[str, Any]]
) -> dict[str, LoadedConfig]:
    arguments = {name: study.arguments(name, chosen) for name in study.variants}
    return load_all(study, path, arguments, common)


def _open(study: Ablation, loaded: Mapping[str, LoadedConfig], data: DataSet, final: bool) -> list[Model]:
    return [
        open_model(
            loaded[name],
            name,
            Path(study.output) / "variants" / name,
            study.seeds,
            data,
            final=final,
            per_surface=variant.per_surface,
        )
        for name, variant in study.variants.items()
    ]


def _score(
    study: Ablation,
    models: Sequence[Model],
    chosen: Mapping[str, Mapping[str, Any]],
    final: str | None,
    progress: Progress,
) -> Ablated:
    experiment = models[0].experiment
    splits, rates, truth = list(experiment.schedule.scored_days), base_rates(experiment), truth_of(experiment)
    rows = []
    for model, found in scored(models, rates, splits, truth, progress):
        row = found | {"data": study.data, "variant": model.name}
        rows.append({column: row[column] for column in COLUMNS})
    sources = {model.name: model.source for model in models}
    gains: list[dict[str, Any]] = []
    best: dict[tuple[str, str], str] = {}
    with progress.task("differences", total=len(splits), unit="splits") as bar:
        for split in splits:  # the tune days first: they name the best peer
            of = measured(sources, experiment.data.schema.verticals, rates, split, truth)
            best = best or differences.best_peers(of, study.peers)
            shared = {"data": study.data, "split": split}
            gains += differences.difference_rows(of, study.full, best, shared)
            bar.advance(1)
    table = Path(study.table)
    replace_rows(table, COLUMNS, rows, ("data", "split"))
    replace_rows(beside(table, "differences"), differences.COLUMNS, gains, ("data", "split"))
    picture = table.with_name(f"{table.stem}_{study.data}.svg")
    ablation_picture(study, [row for row in gains if row["split"] == splits[-1]], picture)
    return Ablated(study, splits[-1], chosen, rows, gains, picture)
