"""Writes a small run folder, as the pipeline would, from models that are the true logit plus noise.

The less noise a model has, the better its scores; noise falls from day to day as if the model learned.
Everything else is written by the functions the pipeline uses: rows, transfer and predictions agree.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from distill.cells import ALL, Cell, write_cells
from distill.config import DataConfig, ExperimentConfig, ScheduleConfig, StudentConfig
from distill.predictions import CellPredictions, Predictions, prediction_path, write_predictions
from distill.rates import RateCounter
from distill.results import write_results
from distill.schema import DayInfo, FeatureSchema, SparseFeature, Task
from distill.score_rows import score_rows
from distill.sources.writer import PreparedWriter
from distill.transfer import Losses, transfer_rows
from distill.truth import Truth

VERTICALS = ("feed", "reels", "stories")
TASKS = ("click", "conversion")
NOISE = {"teacher": 0.2, "none": 0.75, "single": 0.65, "ah": 0.5}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_BASE_LOGIT = {"click": (-0.6, -1.2, -1.8), "conversion": (-2.2, -2.6, -3.0)}
_FIRST_PREDICTED = 2
_MODELS = ("teacher", "floor")  # the other keys of the noise are channel sets
_DAY_MS = 86_400_000
FINGERPRINT = "f1" * 32
NEW_ITEMS = 40  # a day: items of day n lie below n times this


@dataclasses.dataclass(frozen=True)
class _World:
    """Rows of all days; arrays are [N], logits and labels by task."""

    example_id: np.ndarray
    user_id: np.ndarray
    day: np.ndarray
    domain: np.ndarray
    logit: Mapping[str, np.ndarray]
    label: Mapping[str, np.ndarray]


def write_synthetic_run(
    folder: Path,
    noise: Mapping[str, float] = NOISE,
    models: Mapping[str, Sequence[str]] = {"deepfm": VERTICALS},
    seeds: Sequence[int] = (0, 1, 2),
    final: bool = False,
    users: int = 260,
    rows_per_day: int = 260,
    name: str = "synthetic",
    data: bool = False,
) -> Path:
    """Write a run folder.

    Args:
        folder: gets the run.
        noise: standard deviation of the logit's noise, of `teacher`, of each channel set, of `floor` if asked.
        models: student's name to its verticals.
        seeds: one training each.
        final: also predict and score the test days.
        users: users in the world.
        rows_per_day: rows of a vertical and day.
        name: of the experiment.
        data: also write the prepared data set, in `data/` of the folder.

    Returns:
        The folder.
    """
    config = _config(folder, noise, models, seeds, name)
    world = _world(users, rows_per_day, last_day=14 if final else 11)
    teacher = Cell(name, "gem", "teacher", ALL, "progressive", "rich", "direct", 0, "none")
    students = [
        Cell(name, model, "student", vertical, "progressive", "thin", "direct", 1, channel)
        for model, verticals in models.items()
        for vertical in verticals
        for channel in noise
        if channel not in _MODELS
    ]
    floor = Cell(name, "logistic_regression", "floor", ALL, "progressive", "thin", "direct", 0, "none")
    cells = [teacher, *students, *([floor] if "floor" in noise else [])]
    for cell in cells:
        for seed in seeds:
            write_predictions(prediction_path(folder, cell, seed), _predictions(world, cell, seed, noise))
            if cell != floor:
                write_training_report(folder, cell, seed)
    write_cells(folder / "cells.csv", cells)
    (folder / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    (folder / "versions.json").write_text(json.dumps({"python": "3.11.7", "torch": "2.13.0"}))
    if data:
        _write_data(folder / "data" / f"simulator-{FINGERPRINT[:12]}", world)
    _score(folder, world, cells, ["tune", "test"] if final else ["tune"])
    return folder


def write_training_report(folder: Path, cell: Cell, seed: int) -> None:
    """What a finished training leaves in `checkpoints/<cell_id>/<seed>/report.json`."""
    large = cell.role == "teacher"
    report = {
        "cell_id": cell.cell_id,
        "seed": seed,
        "data_fingerprint": FINGERPRINT,
        "dense_parameters": 900_000 if large else 40_000,
        "table_parameters": 12_000_000 if large else 800_000,
        "seconds": (300.0 if large else 20.0) + seed,
        "cpu_seconds": (290.0 if large else 19.0) + seed,
        "flops_per_example": 3_000_000.0 if large else 150_000.0,
        "days": [
            {
                "day": day,
                "examples_seen": 780 * day,
                "examples_per_s": 100.0 * day + seed,
                "mfu": None if day == 1 else 0.01 * day,
                "means": _day_means(cell, day, seed),
            }
            for day in range(1, 11)
        ],
    }
    path = folder / "checkpoints" / cell.cell_id / str(seed) / "report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report))


def _day_means(cell: Cell, day: int, seed: int) -> dict[str, float]:
    """Mean losses of a day; of the adapter as well, whom the teacher tells nothing on day 1."""
    means = {"loss_labels": 0.7 - 0.01 * day}
    if cell.channel != "ah_adapter":
        return means
    spoken = float(day > 1)
    return means | {
        "adapter/correction": spoken * (0.2 + 0.1 * seed + 0.01 * day),
        "adapter/teacher_loss": spoken * 0.6,
        "adapter/target_loss": spoken * (0.6 - 0.001 * day),
        "adapter/shift_click": spoken * -0.05,
        "adapter/shift_conversion": spoken * 0.02 * day,
    }


def _write_data(folder: Path, world: _World) -> None:
    """The rows of the world as a prepared data set; every day brings new items."""
    schema = FeatureSchema(
        name="synthetic",
        domains=VERTICALS,
        verticals=VERTICALS,
        days=tuple(
            DayInfo(f"2026-01-{day:02d}", (day + 1) * _DAY_MS) for day in range(1, int(world.day[-1]) + 1)
        ),
        tasks={task: Task(task) for task in TASKS},
        sparse={"item_id": SparseFeature("item_id", NEW_ITEMS * int(world.day[-1]), "item")},
    )
    with PreparedWriter(folder, schema, source="simulator", fingerprint=FINGERPRINT) as writer:
        for day in range(1, schema.n_days + 1):
            rows = np.flatnonzero(world.day == day)
            columns = {
                "example_id": world.example_id[rows],
                "user_id": world.user_id[rows],
                "timestamp": np.full(len(rows), day * _DAY_MS),
                "domain": world.domain[rows],
                "item_id": world.example_id[rows] % (NEW_ITEMS * day),
                **{f"label_{task}": world.label[task][rows] for task in TASKS},
            }
            writer.write_day(day, pa.table(columns))


def _config(
    folder: Path,
    noise: Mapping[str, float],
    models: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    name: str,
) -> ExperimentConfig:
    sets: dict[str, dict] = {channel: {channel: {}} for channel in noise if channel not in (*_MODELS, "none")}
    students = [
        StudentConfig(name=model, verticals=list(verticals), channels=list(sets))
        for model, verticals in models.items()
    ]
    return ExperimentConfig(
        name=name,
        output=str(folder),
        seeds=list(seeds),
        students=students,
        channels=sets,
        schedule=ScheduleConfig(),
        data=DataConfig(source="simulator", cache=str(folder / "data")),
    )


def _world(users: int, rows_per_day: int, last_day: int) -> _World:
    rng = np.random.default_rng(7)
    n = rows_per_day * len(VERTICALS) * last_day
    day = np.repeat(np.arange(1, last_day + 1), rows_per_day * len(VERTICALS))
    domain = np.tile(np.repeat(np.arange(len(VERTICALS)), rows_per_day), last_day)
    user = rng.integers(0, users, n)
    logit, label = {}, {}
    for task in TASKS:
        drift = 0.1 * np.sin(day / 2.0)
        logit[task] = (
            np.array(_BASE_LOGIT[task])[domain]
            + drift
            + rng.normal(0, 0.8, users)[user]
            + rng.normal(0, 1, n)
        )
        label[task] = (rng.random(n) < 1 / (1 + np.exp(-logit[task]))).astype(np.int8)
    return _World(np.arange(n), user, day.astype(np.int32), domain.astype(np.int32), logit, label)


def _predictions(world: _World, cell: Cell, seed: int, noise: Mapping[str, float]) -> Predictions:
    own = (
        np.ones(len(world.day), bool)
        if cell.vertical == ALL
        else world.domain == VERTICALS.index(cell.vertical)
    )
    rows = np.flatnonzero(own & (world.day >= _FIRST_PREDICTED))
    rng = np.random.default_rng([seed, int(cell.cell_id, 16) % 2**32])
    scale = noise[cell.role if cell.role in _MODELS else cell.channel]
    fading = scale * (1.0 + 1.5 * np.exp(-(world.day[rows] - 1) / 3.0))
    # Half of the noise belongs to the row, whichever model looks at it: models of one world err together.
    shared = np.random.default_rng(11).normal(0, 1, len(world.day))[rows]
    logits = {
        task: (world.logit[task][rows] + fading * (0.7 * shared + 0.7 * rng.normal(0, 1, len(rows)))).astype(
            np.float32
        )
        for task in TASKS
    }
    day = world.day[rows]
    return Predictions(
        example_id=world.example_id[rows],
        user_id=world.user_id[rows],
        timestamp=day.astype(np.int64) * _DAY_MS,
        day=day,
        domain=world.domain[rows],
        domains=VERTICALS,
        split=np.where(day >= 12, 2, np.where(day >= 9, 1, 0)).astype(np.int8),
        logits=logits,
        labels={task: world.label[task][rows] for task in TASKS},
    )


def _score(folder: Path, world: _World, cells: Sequence[Cell], splits: Sequence[str]) -> None:
    sources = [CellPredictions(cell, folder) for cell in cells]
    counter = RateCounter(VERTICALS, VERTICALS, TASKS, range(1, 12))
    counter.update(world.domain, world.day, world.label)
    rates = counter.rates()
    truth = Truth(world.example_id, {task: 1 / (1 + np.exp(-world.logit[task])) for task in TASKS})
    transfer = [row for split in splits for row in transfer_rows(Losses(sources, VERTICALS, rates, split))]
    write_results(
        folder / "results.json",
        score_rows(sources, VERTICALS, rates, splits, truth),
        transfer,
        timing={source.cell.cell_id: _timing(source) for source in sources if source.cell.role != "floor"},
        versions={"python": "3.11.7", "torch": "2.13.0"},
        git_commit=COMMIT,
        config_hash="c0ffee",
    )


def _timing(source: CellPredictions) -> dict[str, dict[str, float]]:
    timing = {}
    for seed in source.seeds:
        path = source.run_folder / "checkpoints" / source.cell.cell_id / str(seed) / "report.json"
        report = json.loads(path.read_text())
        timing[str(seed)] = {
            "seconds": report["seconds"],
            "cpu_seconds": report["cpu_seconds"],
            "train_seconds": report["seconds"] * 0.8,
            "examples": report["days"][-1]["examples_seen"],
            "dense_parameters": report["dense_parameters"],
            "table_parameters": report["table_parameters"],
            "flops_per_example": report["flops_per_example"],
        }
    return timing
