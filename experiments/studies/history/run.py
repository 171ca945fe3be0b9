"""`distill study history`: costs on synthetic batches, quality on a data set whose users have long histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.cells import POOLED
from distill.dataset import DataSet, prepare
from distill.interval import Estimate, difference
from distill.load_config import LoadedConfig
from distill.progress import Progress
from experiments.pipeline.scoring import base_rates
from experiments.pipeline.status import RunStatus
from experiments.studies.files import hash_of, load_all, overrides
from experiments.studies.history.cost import Request
from experiments.studies.history.file import LENGTH, History
from experiments.studies.history.picture import history_picture
from experiments.studies.history.timing import Cost, Place, costs
from experiments.studies.scoring import measured, scored
from experiments.studies.tables import beside, replace_rows
from experiments.studies.trainings import Model, open_model, rehearse, train

SPLIT = "tune"
COLUMNS = (
    *("data", "variant", "events", "task", "split", "seed", "examples"),
    *("ms_per_batch", "ms_per_1000_events", "peak_mib", "ne", "auc"),
)
GAIN_COLUMNS = (
    *("data", "variant", "events", "against", "against_events", "task", "split", "measure"),
    *("gain", "low", "high", "seeds"),
)
_MEASURES = ("ne", "auc")


@dataclass(frozen=True)
class Gain:
    """What one model has over another on the pooled rows.

    Attributes:
        place, against: the two.
        task: whose loss.
        measure: `ne` or `auc`.
        found: L of `against` minus L of `place`, L = NE or 1 - AUC; above 0 `place` is better.
    """

    place: Place
    against: Place
    task: str
    measure: str
    found: Estimate


@dataclass(frozen=True)
class Remembered:
    """What a history study has found.

    Attributes:
        study: its file.
        costs: of every variant and length.
        rows: with `COLUMNS`.
        gains: of longer histories over the variant's shortest, and between variants at the same length.
        picture: the SVG that was written.
    """

    study: History
    costs: Mapping[Place, Cost]
    rows: list[dict[str, Any]]
    gains: list[Gain]
    picture: Path


def remember(study: History, path: Path, settings: Sequence[str], progress: Progress) -> Remembered:
    """Do what is missing and write tables and picture.

    Args:
        study: the file's content.
        path: the file, for messages.
        settings: `--set` arguments of the experiment, as on the command line.
        progress: shown to the user.

    Raises:
        UserError: settings or data that do not fit.
        RuntimeError: a measurement failed.
        KeyboardInterrupt: after the output folder was marked as interrupted.
    """
    common = [*overrides(study.set), *settings]
    arguments = {place: _arguments(study, place) for place in study.timed}
    loaded = load_all(study, path, {_name(place): of for place, of in arguments.items()}, common)
    with RunStatus(Path(study.output), hash_of(loaded), None) as step:
        step("data")
        data = prepare(next(iter(loaded.values())).config.data, progress)
        models = _open(study, loaded, data)
        step("rehearsal")
        rehearse({f"{path}: {model.name}": model for model in models.values()})
        step("costs")
        requests = {place: _request(study, place, [*common, *of], data) for place, of in arguments.items()}
        found = costs(requests, study.rounds, Path(study.output) / "costs", progress)
        step("train")
        train(sorted(models.values(), key=lambda model: -_events(model)), "histories", progress)
        step("score")
        return _score(study, models, found, progress)


def _arguments(study: History, place: Place) -> list[str]:
    name, events = place
    return [*overrides(study.variants[name].set), f"{LENGTH}={events}"]


def _name(place: Place) -> str:
    return f"{place[0]}-{place[1]}"


def _open(study: History, loaded: Mapping[str, LoadedConfig], data: DataSet) -> dict[Place, Model]:
    """Models of the lengths to train."""
    return {
        place: open_model(
            loaded[_name(place)], _name(place), Path(study.output) / _name(place), study.seeds, data
        )
        for place in study.trained
    }


def _events(model: Model) -> int:
    teacher = model.experiment.config.teacher
    assert teacher is not None
    return teacher.options["history_length"]


def _request(study: History, place: Place, arguments: list[str], data: DataSet) -> Request:
    schema = str((data.folder / "schema.yaml").resolve())
    return Request(study.experiment, arguments, schema, place[1], study.batch_size, study.steps)


def _score(
    study: History, models: Mapping[Place, Model], found: Mapping[Place, Cost], progress: Progress
) -> Remembered:
    rows, gains = [_row(study, place, cost, {}) for place, cost in found.items() if place not in models], []
    if models:
        experiment = next(iter(models.values())).experiment
        rates, places = base_rates(experiment), {model.name: place for place, model in models.items()}
        for model, scores in scored(list(models.values()), rates, [SPLIT], None, progress):
            place = places[model.name]
            if scores["vertical"] == POOLED:
                rows.append(_row(study, place, found[place], scores))
        sources = {model.name: model.source for model in models.values()}
        of = measured(sources, experiment.data.schema.verticals, rates, SPLIT)
        gains = gains_of({place: of[model.name] for place, model in models.items()})
    table = Path(study.table)
    picture = table.with_name(f"{table.stem}_{study.data}.svg")
    replace_rows(table, COLUMNS, rows, ("data",))
    replace_rows(
        beside(table, "differences"), GAIN_COLUMNS, [_gain_row(study, gain) for gain in gains], ("data",)
    )
    history_picture(study.data, found, rows, picture)
    return Remembered(study, found, rows, gains, picture)


def gains_of(of: Mapping[Place, Mapping[Any, Any]]) -> list[Gain]:
    """Longer histories against the variant's shortest, variants against the first one at the same length.

    Args:
        of: losses by variant and events (`distill.measure`), each variant's histories rising.
    """
    gains = []
    first = next(iter(of))[0] if of else ""
    for name, events in of:
        shortest = next(place for place in of if place[0] == name)
        same = (first, events)
        for against in [place for place in (shortest, same) if place in of and place != (name, events)]:
            gains += _between(of, (name, events), against)
    return gains


def _between(of: Mapping[Place, Mapping[Any, Any]], place: Place, against: Place) -> list[Gain]:
    return [
        Gain(place, against, key[1], key[2], difference(of[against][key], mine))
        for key, mine in of[place].items()
        if key[0] == POOLED and key[2] in _MEASURES and mine is not None and of[against].get(key) is not None
    ]


def _row(study: History, place: Place, cost: Cost, scores: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"data": study.data, "variant": place[0], "events": place[1], **vars(cost)}
    return row | {name: scores[name] for name in ("task", "split", "seed", "examples", "ne", "auc") if scores}


def _gain_row(study: History, gain: Gain) -> dict[str, Any]:
    values = (
        *(study.data, *gain.place, *gain.against, gain.task, SPLIT, gain.measure),
        *(gain.found.value, gain.found.low, gain.found.high, gain.found.seeds),
    )
    return dict(zip(GAIN_COLUMNS, values, strict=True))
