"""Work on one seed: train the teacher, a domain teacher, a student; say what a model costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from distill.batch import Batch
from distill.cells import Cell
from distill.checkpoint import save_model
from distill.config import ShardingConfig, StudentConfig, of_seed
from distill.errors import UserError
from distill.progress import Progress
from distill.protocols import Architecture, Channel
from distill.renumbering import numbering, refuse_renumbered
from distill.seen_days import refuse_seen, seen_through
from distill.vocabulary import Vocabulary
from experiments.pipeline.build import build_autoencoder, build_model, build_student
from experiments.pipeline.cost import ModelCost, counted_day, model_cost
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.streams import streams
from experiments.pipeline.supply import Supply, open_supply
from experiments.pipeline.training import Settings, Training, is_current, with_rows
from kernels.embedding import sharded
from kernels.table_sharding import Sharding, ShardingError


def is_done(experiment: Experiment, cell: Cell, seed: int) -> bool:
    """True when this training has been finished; that of a teacher, with all snapshots that its log is written by."""
    if cell not in experiment.logged_cells:
        return is_current(experiment, cell, seed)
    schedule = experiment.schedule
    throughs = {schedule.snapshot_for(day) for day in schedule.logged_days()} - {None}
    snapshots = [experiment.snapshot(cell, seed, through) for through in throughs if through is not None]
    return is_current(experiment, cell, seed) and all(path.is_file() for path in snapshots)


def train_teacher(experiment: Experiment, cell: Cell, seed: int, progress: Progress) -> None:
    """Train the teacher or a domain teacher through its days, a snapshot after each, predictions as of any model."""
    config, schema = experiment.logged_cells[cell], experiment.data.schema
    supply = Supply()
    channels: dict[str, Channel] = {}
    if cell == experiment.teacher_cell:
        with tables_shared(experiment.config.sharding):
            model = build_model(cell.role, config, config.optimizer, schema, seed, experiment.base)
    else:
        sets = experiment.channels_of(cell)
        model, channels = build_student(config, sets, config.optimizer, schema, seed, experiment.base)
        supply = open_supply(experiment, cell, seed, channels.values(), model.tasks)
    autoencoder = build_autoencoder(config.representation, model, seed)

    vocabularies = experiment.data.vocabularies()
    if config.start is not None:
        _check_start(experiment, cell, Path(of_seed(config.start, seed)), vocabularies)
    rows = numbering(vocabularies)

    def snapshot(day: int) -> None:
        facts = {"trained_through": day, "seed": seed, **seen_through(schema.days[day - 1]), **rows}
        save_model(model, experiment.snapshot(cell, seed, day), facts, autoencoder)

    training = Training(
        experiment, cell, seed, model, {**channels, **autoencoder}, Settings.of(config), supply
    )
    training.run(experiment.schedule.teacher_plan(), progress, snapshot)


def _check_start(
    experiment: Experiment, cell: Cell, path: Path, vocabularies: Mapping[str, Vocabulary]
) -> None:
    """Refuse a snapshot that has seen the days ahead, or whose rows stand for other values."""
    first = experiment.data.schema.days[experiment.schedule.teacher_plan().train[0] - 1]
    place = "teacher" if cell == experiment.teacher_cell else f"domain_teachers.{cell.model}"
    refuse_seen(path, first, f"{place}.start")
    refuse_renumbered(path, vocabularies)


@contextmanager
def tables_shared(config: ShardingConfig) -> Iterator[None]:
    """Inside, the teacher is built, with its tables shared among processes as its experiment says.

    Raises:
        UserError: they cannot be shared so.
    """
    try:
        with sharded(Sharding(config.tables, config.kinds, config.group)):
            yield
    except ShardingError as error:
        raise UserError(str(error)) from error


def train_student(
    experiment: Experiment, cell: Cell, student: StudentConfig, seed: int, progress: Progress
) -> None:
    """Train one student on its vertical with its channels."""
    optimizer = student.channel_optimizers.get(cell.channel, student.optimizer)
    model, channels = build_student(
        student, experiment.channels_of(cell), optimizer, experiment.data.schema, seed, experiment.base
    )
    supply = open_supply(experiment, cell, seed, channels.values(), model.tasks)
    training = Training(experiment, cell, seed, model, channels, Settings.of(student, optimizer), supply)
    training.run(experiment.schedule.student_plan(), progress)


def cost_of(experiment: Experiment, cell: Cell, model: Architecture, batch_size: int) -> ModelCost:
    """What a model costs on its surface; see `a_batch`."""
    return model_cost(model, [a_batch(experiment, cell, model, batch_size)])


def a_batch(experiment: Experiment, cell: Cell, model: Architecture, batch_size: int) -> Batch:
    """The first batch of the last day before the tune days, of a model's surface.

    Raises:
        UserError: the surface has no rows on the days that are scored.
    """
    is_teacher = cell in experiment.logged_cells
    plan = experiment.schedule.teacher_plan() if is_teacher else experiment.schedule.student_plan()
    plan, _ = with_rows(experiment, cell, plan)
    days = streams(experiment, model, batch_size, cell.domains, Supply())
    return next(iter(days(counted_day(experiment.schedule, plan), False)))
