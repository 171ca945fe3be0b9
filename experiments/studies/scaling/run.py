"""`distill study scaling`: trains every size with every history, scores the pooled rows, fits the laws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from distill.cells import POOLED
from distill.dataset import prepare
from distill.interval import Statistic
from distill.load_config import LoadedConfig, load_teacher
from distill.progress import Progress
from distill.structured import to_plain
from experiments.pipeline.scoring import base_rates
from experiments.pipeline.status import RunStatus
from experiments.studies.files import hash_of, load_all, overrides
from experiments.studies.scaling.file import Scaling
from experiments.studies.scaling.law import Law, law
from experiments.studies.scaling.picture import scaling_picture
from experiments.studies.scoring import Measured, measured, scored
from experiments.studies.tables import beside, replace_rows
from experiments.studies.trainings import Model, open_model, rehearse, train

SPLIT = "tune"
COLUMNS = (
    *("data", "size", "history", "task", "split", "params", "flops_per_example", "train_flops", "seed"),
    *("ne", "auc"),
)
LAW_COLUMNS = (
    *("data", "task", "split", "history", "against", "points", "decades", "monotone"),
    *("a", "a_low", "a_high", "b", "c", "c_low", "c_high", "r2"),
    *("slope", "slope_low", "slope_high", "line_r2", "seeds"),
)
ALL = "all"
"""History of a law over all of them."""

COMPUTE, PARAMETERS = "train_flops", "params"


@dataclass(frozen=True)
class Point:
    """One size with one history, on one task.

    Attributes:
        size, history, task: what it is.
        params: in dense parameters and tables.
        train_flops: of one training, mean over seeds.
        ne, auc: means over seeds, with their draws; AUC as 1 - AUC.
    """

    size: str
    history: int
    task: str
    params: int
    train_flops: float
    ne: Statistic
    auc: Statistic


@dataclass(frozen=True)
class Fitted:
    """One law.

    Attributes:
        task: whose NE.
        history: events, or ALL.
        against: COMPUTE or PARAMETERS.
        law: what was found.
    """

    task: str
    history: str
    against: str
    law: Law


@dataclass(frozen=True)
class Scaled:
    """What a scaling study has found.

    Attributes:
        study: its file.
        points: every size with every history, on every task.
        laws: per task: over compute for each history and for all together, over parameters for each history.
        picture: the SVG that was written.
    """

    study: Scaling
    points: list[Point]
    laws: list[Fitted]
    picture: Path


def scale(study: Scaling, path: Path, settings: Sequence[str], progress: Progress) -> Scaled:
    """Do what is missing and write tables and picture.

    Args:
        study: the file's content.
        path: the file, for messages.
        settings: `--set` arguments of the experiment, as on the command line.
        progress: shown to the user.

    Raises:
        UserError: settings or data that do not fit.
        KeyboardInterrupt: after the output folder was marked as interrupted.
    """
    loaded = _load(study, path, settings)
    with RunStatus(Path(study.output), hash_of(loaded), None) as step:
        step("data")
        first = next(iter(loaded.values()))
        data = prepare(first.config.data, progress)
        models = {
            place: open_model(of, _name(*place), Path(study.output) / _name(*place), study.seeds, data)
            for place, of in zip(study.grid, loaded.values(), strict=True)
        }
        step("rehearsal")
        rehearse({f"{path}: {model.name}": model for model in models.values()})
        step("train")
        train(list(models.values())[::-1], "sizes", progress)
        step("score")
        return _score(study, models, progress)


def _load(study: Scaling, path: Path, settings: Sequence[str]) -> dict[str, LoadedConfig]:
    teachers = {size: json.dumps(to_plain(load_teacher(file))) for size, file in study.sizes.items()}
    arguments = {
        _name(size, history): [f"teacher={teachers[size]}", f"teacher.options.history_length={history}"]
        for size, history in study.grid
    }
    return load_all(study, path, arguments, [*overrides(study.set), *settings])


def _name(size: str, history: int) -> str:
    return f"{size}-{history}"


def _score(study: Scaling, models: dict[tuple[str, int], Model], progress: Progress) -> Scaled:
    experiment = next(iter(models.values())).experiment
    rates = base_rates(experiment)
    rows = []
    for model, found in scored(list(models.values()), rates, [SPLIT], None, progress):
        size, history = next(place for place, of in models.items() if of is model)
        row = found | {"data": study.data, "size": size, "history": history}
        if row["vertical"] == POOLED:
            rows.append({column: row[column] for column in COLUMNS})
    of = measured(
        {model.name: model.source for model in models.values()},
        experiment.data.schema.verticals,
        rates,
        SPLIT,
    )
    points = _points(rows, of)
    laws = fit_laws(points)
    table = Path(study.table)
    picture = table.with_name(f"{table.stem}_{study.data}.svg")
    replace_rows(table, COLUMNS, rows, ("data", "split"))
    replace_rows(beside(table, "laws"), LAW_COLUMNS, _law_rows(study, laws), ("data", "split"))
    scaling_picture(study.data, points, laws, picture)
    return Scaled(study, points, laws, picture)


def _points(rows: Sequence[dict[str, Any]], of: Measured) -> list[Point]:
    """One per size, history and task; whatever has no NE or AUC on these rows is left out."""
    points = []
    for size, history, task in dict.fromkeys((r["size"], r["history"], r["task"]) for r in rows):
        mine = [r for r in rows if (r["size"], r["history"], r["task"]) == (size, history, task)]
        ne, auc = (of[_name(size, history)][POOLED, task, kind] for kind in ("ne", "auc"))
        flops = fmean(row["train_flops"] for row in mine)
        if ne is not None and auc is not None:
            points.append(Point(size, history, task, mine[0]["params"], flops, ne, auc))
    return points


def fit_laws(points: Sequence[Point]) -> list[Fitted]:
    """Every law of the study.

    Args:
        points: of any tasks and histories.
    """
    laws = []
    for task in dict.fromkeys(point.task for point in points):
        of_task = [point for point in points if point.task == task]
        groups = {str(h): [p for p in of_task if p.history == h] for h in {p.history: None for p in of_task}}
        if len(groups) > 1:
            groups[ALL] = of_task
        for history, members in groups.items():
            for against in (COMPUTE, PARAMETERS):
                if history != ALL or against == COMPUTE:
                    sizes = [getattr(point, against) for point in members]
                    laws.append(Fitted(task, history, against, law(sizes, [p.ne for p in members])))
    return laws


def _law_rows(study: Scaling, laws: Sequence[Fitted]) -> list[dict[str, Any]]:
    rows = []
    for fitted in laws:
        found = fitted.law
        row = dict.fromkeys(LAW_COLUMNS) | {"data": study.data, "split": SPLIT, "seeds": len(study.seeds)}
        row |= {name: getattr(fitted, name) for name in ("task", "history", "against")}
        row |= {name: getattr(found, name) for name in ("points", "decades", "monotone")}
        if found.power is not None:
            a, c = found.power.a, found.power.c
            row |= {"a": a.value, "a_low": a.low, "a_high": a.high, "b": found.power.b}
            row |= {"c": c.value, "c_low": c.low, "c_high": c.high, "r2": found.power.r2}
        if found.line is not None:
            slope = found.line.slope
            row |= {"slope": slope.value, "slope_low": slope.low, "slope_high": slope.high}
            row |= {"line_r2": found.line.r2}
        rows.append(row)
    return rows
