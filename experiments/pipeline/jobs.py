"""The three kinds of work on one seed: train the teacher, write its log, train one student."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from adapters.autoencoder import Autoencoder
from distill.cells import ALL, Cell
from distill.checkpoint import file_hash, load_model, save_model
from distill.config import ComputeConfig, DelayedLabels, OptimizerConfig, StudentConfig, TeacherConfig
from distill.dataset import DataSet
from distill.delay import LabelRule, label_rule
from distill.errors import UserError
from distill.files import atomic_path
from distill.log_files import LogManifest, RepresentationFacts, day_file, day_is_logged
from distill.module import DistillModule
from distill.predictions import prediction_path, write_predictions
from distill.progress import Progress
from distill.protocols import Architecture, Channel
from distill.schedule import DayPlan
from distill.seeding import seeded
from distill.stream import DayStream
from distill.teacher_log import write_day
from distill.training import DayCallback, DayData, fit, predict
from experiments.pipeline.build import build_autoencoder, build_model, build_student
from experiments.pipeline.cost import ModelCost, counted_day, model_cost
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.recorder import LogRecorder, PredictionRecorder
from experiments.pipeline.supply import Supply, open_supply, teacher_log

REPORT = "report.json"


@dataclass(frozen=True)
class Training:
    """How one model is trained, of the fields of the same names in its config."""

    optimizer: OptimizerConfig
    compute: ComputeConfig
    delayed_labels: DelayedLabels


def is_done(experiment: Experiment, cell: Cell, seed: int) -> bool:
    """True when this training has been finished with these settings and data through the days needed now."""
    path = experiment.checkpoint_folder(cell, seed) / REPORT
    if not path.is_file() or not prediction_path(experiment.folder, cell, seed).is_file():
        return False
    if cell == experiment.teacher_cell and not all(
        path.is_file() for path in _needed_snapshots(experiment, seed)
    ):
        return False
    report = json.loads(path.read_text())
    same = report["config_hash"] == experiment.config_hash
    same = same and report["data_fingerprint"] == experiment.data.fingerprint
    # A final run has predicted the tune days on its way to the test days.
    return same and report["last_day"] >= experiment.schedule.last_day


def _needed_snapshots(experiment: Experiment, seed: int) -> list[Path]:
    throughs = [experiment.schedule.snapshot_for(day) for day in experiment.schedule.logged_days()]
    return [experiment.snapshot(seed, through) for through in throughs if through is not None]


def train_teacher(experiment: Experiment, seed: int, progress: Progress) -> None:
    """Train the teacher through its days, a snapshot after each, its predictions as those of any model."""
    config, cell = experiment.config.teacher, experiment.teacher_cell
    assert config is not None and cell is not None
    model = build_model("teacher", config, config.optimizer, experiment.data.schema, seed, experiment.base)
    channels = build_autoencoder(config.representation, model, seed)

    def snapshot(day: int) -> None:
        save_model(model, experiment.snapshot(seed, day), {"trained_through": day, "seed": seed}, channels)

    _train(
        experiment,
        cell,
        seed,
        model,
        channels,
        Training(config.optimizer, config.compute, config.delayed_labels),
        experiment.schedule.teacher_plan(),
        Supply(),
        progress,
        snapshot,
    )


def days_to_log(experiment: Experiment, seed: int) -> dict[int, int]:
    """What is missing in the teacher log: day to the day through which its snapshot was trained.

    Raises:
        UserError: a snapshot does not exist.
    """
    schedule, missing = experiment.schedule, {}
    for day in schedule.logged_days():
        through = schedule.snapshot_for(day)
        assert through is not None
        path = experiment.snapshot(seed, through)
        if not path.is_file():
            raise UserError(f"teacher log: no snapshot {path}. Train the teacher first (`distill teacher`).")
        if not day_is_logged(experiment.log_folder(seed), day, file_hash(path), experiment.data.fingerprint):
            missing[day] = through
    return missing


def write_log(experiment: Experiment, seed: int, progress: Progress) -> None:
    """Write every day of the teacher log that students read; a day that stands there already is kept."""
    config = experiment.config.teacher
    assert config is not None
    model = build_model("teacher", config, config.optimizer, experiment.data.schema, seed, experiment.base)
    channels = build_autoencoder(config.representation, model, seed)
    loaded = None
    for day, through in days_to_log(experiment, seed).items():
        if loaded != through:
            loaded = load_model(model, experiment.snapshot(seed, through), channels)["trained_through"]
            assert loaded == through, f"the snapshot of day {through} was trained through day {loaded}"
        _log_day(experiment, seed, model, channels.get("representation"), config, day, through, progress)


def train_student(
    experiment: Experiment, cell: Cell, student: StudentConfig, seed: int, progress: Progress
) -> None:
    """Train one student on its vertical with its channels."""
    schema = experiment.data.schema
    optimizer = student.channel_optimizers.get(cell.channel, student.optimizer)
    channel_set = experiment.config.channels.get(cell.channel, {})
    model, channels = build_student(student, channel_set, optimizer, schema, seed, experiment.base)
    supply = open_supply(experiment, seed, channels.values(), model.tasks)
    plan = experiment.schedule.student_plan()
    training = Training(optimizer, student.compute, student.delayed_labels)
    _train(experiment, cell, seed, model, channels, training, plan, supply, progress, lambda day: None)


def _train(
    experiment: Experiment,
    cell: Cell,
    seed: int,
    model: Architecture,
    channels: Mapping[str, Channel],
    training: Training,
    plan: DayPlan,
    supply: Supply,
    progress: Progress,
    after_day: Callable[[int], None],
) -> None:
    started = time.perf_counter(), time.process_time()
    plan, rows = _with_rows(experiment, cell, plan)
    domains = _domains(cell)
    rates = first_rates(experiment.data, plan.train[0], domains)
    parts: list[Architecture | Channel] = [model, *channels.values()]
    for part in parts:
        part.set_base_rates(rates)
    recorder = PredictionRecorder()
    module = DistillModule(model, channels, training.optimizer, recorder, training.compute)
    labels = label_rule(training.delayed_labels, experiment.data)
    days = _streams(experiment, model, training.optimizer.batch_size, domains, supply, labels)
    cost = model_cost(model, days(counted_day(experiment.schedule, plan), False))
    title = f"{cell.model} {cell.vertical} {cell.channel} seed {seed}"

    def before_day(day: int) -> None:
        for channel in channels.values():
            channel.begin_day(day, supply.snapshot(day) if "snapshot" in channel.needs else None)

    callback = DayCallback(plan, progress, rows, title, after_day, before_day)
    with seeded(seed, "training"):  # dropout
        reports = fit(module, DayData(days, plan), callback)
    write_predictions(
        prediction_path(experiment.folder, cell, seed), recorder.predictions(experiment, model.tasks)
    )
    folder = experiment.checkpoint_folder(cell, seed)
    save_model(model, folder / "model.safetensors", {"trained_through": plan.train[-1], "seed": seed})
    report = {
        "config_hash": experiment.config_hash,
        "data_fingerprint": experiment.data.fingerprint,
        "last_day": experiment.schedule.last_day,
        "cell_id": cell.cell_id,
        "seed": seed,
        **asdict(cost),
        "train_flops": sum(day.flops for day in reports),
        "seconds": time.perf_counter() - started[0],
        "cpu_seconds": time.process_time() - started[1],
        "days": [asdict(day) for day in reports],
    }
    with atomic_path(folder / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")


def cost_of(experiment: Experiment, cell: Cell, model: Architecture, batch_size: int) -> ModelCost:
    """What a model costs on its surface, counted on a batch of the last day before the tune days.

    Raises:
        UserError: the surface has no rows on the days that are scored.
    """
    is_teacher = cell == experiment.teacher_cell
    plan = experiment.schedule.teacher_plan() if is_teacher else experiment.schedule.student_plan()
    plan, _ = _with_rows(experiment, cell, plan)
    days = _streams(experiment, model, batch_size, _domains(cell), Supply())
    return model_cost(model, days(counted_day(experiment.schedule, plan), False))


def _domains(cell: Cell) -> list[str] | None:
    return None if cell.vertical == ALL else [cell.vertical]


def _with_rows(experiment: Experiment, cell: Cell, plan: DayPlan) -> tuple[DayPlan, dict[int, int]]:
    """The plan without the days on which the cell's surface has no rows, and the rows of all of its days."""
    rows = rows_of(experiment.data, sorted({*plan.train, *plan.predicted}), _domains(cell))
    plan = plan.only([day for day, count in rows.items() if count])
    _refuse_unscored(experiment, cell, plan)
    return plan, rows


def _refuse_unscored(experiment: Experiment, cell: Cell, plan: DayPlan) -> None:
    for split, days in experiment.schedule.scored_days.items():
        if not set(days) & set(plan.predicted):
            raise UserError(
                f"student '{cell.model}': vertical '{cell.vertical}' has no rows to predict on the {split} days "
                f"{days}. Leave the vertical out, or choose other days."
            )


def first_rates(data: DataSet, day: int, domains: Sequence[str] | None) -> dict[str, Tensor]:
    """Rate of each domain on the first day trained on, from labels that are known then; NaN for other domains.

    Args:
        data: the data set.
        day: the first day.
        domains: the domains the model sees; None for all.

    Returns:
        Task to float64 [D].
    """
    rates = {
        task: torch.from_numpy(of_task) for task, of_task in data.base_rates([day], matured=True).items()
    }
    if domains is None:
        return rates
    seen = torch.zeros(len(data.schema.domains), dtype=torch.bool)
    seen[[data.schema.domain_index(name) for name in domains]] = True
    return {task: torch.where(seen, of_task, torch.nan) for task, of_task in rates.items()}


def rows_of(data: DataSet, days: Sequence[int], domains: Sequence[str] | None) -> dict[int, int]:
    """Number of examples of each day, of some domains or of all."""
    if domains is None:
        return {day: data.rows_per_day[day] for day in days}
    wanted = [data.schema.domain_index(name) for name in domains]
    return {day: int(np.isin(data.outcomes(day).domain, wanted).sum()) for day in days}


def _streams(
    experiment: Experiment,
    model: Architecture,
    batch_size: int,
    domains: Sequence[str] | None,
    supply: Supply,
    labels: LabelRule | None = None,
) -> Callable[[int, bool], IterableDataset]:
    def days(day: int, training: bool) -> IterableDataset:
        return DayStream(
            experiment.data,
            day,
            batch_size,
            model.features,
            model.dense_features,
            history_length=model.history_length,
            content=model.content,
            domains=domains,
            teacher=supply.log if training or supply.served else None,
            labels=labels if training else None,
            others=supply.others if training else None,
            past=supply.past,
        )

    return days


def _log_day(
    experiment: Experiment,
    seed: int,
    model: Architecture,
    autoencoder: Autoencoder | None,
    config: TeacherConfig,
    day: int,
    through: int,
    progress: Progress,
) -> None:
    recorder = LogRecorder(autoencoder)
    module = DistillModule(model, {}, config.optimizer, recorder, config.compute)
    stream = _streams(experiment, model, config.optimizer.batch_size, None, Supply())(day, False)
    manifest = LogManifest(
        teacher=config.name,
        checkpoint=file_hash(experiment.snapshot(seed, through)),
        trained_through=through,
        day=day,
        lag=day - 1 - through,
        data_fingerprint=experiment.data.fingerprint,
        schema=experiment.data.schema.name,
        tasks=list(model.tasks),
        rows=0,
        representation=_representation_facts(config),
    )
    folder, rows = experiment.log_folder(seed), experiment.data.rows_per_day[day]
    with progress.task(f"teacher log seed {seed} day {day}", total=rows) as bar:
        predict(module, [stream])
        ids, logits = recorder.column("example_id"), recorder.column("logits")
        write_day(folder, ids, logits, manifest, recorder.representation)
        bar.advance(rows, **{"bytes per example": day_file(folder, day).stat().st_size / rows})


def _representation_facts(config: TeacherConfig) -> RepresentationFacts | None:
    asked = config.representation
    if asked is None:
        return None
    return RepresentationFacts(list(asked.taps), asked.dim, list(asked.prefixes), asked.codec)


def check_log(experiment: Experiment, seed: int) -> None:
    """Refuse a log that holds other rows than the data set."""
    log = teacher_log(experiment, seed, ())
    for day in experiment.schedule.logged_days():
        log.check_rows(day, experiment.data.outcomes(day).example_id)


def read_report(experiment: Experiment, cell: Cell, seed: int) -> dict[str, Any]:
    """What a finished training left behind."""
    return json.loads((experiment.checkpoint_folder(cell, seed) / REPORT).read_text())
