"""The teacher log of an experiment: written by each teacher's snapshots, day by day, and checked."""

from __future__ import annotations

from adapters.autoencoder import Autoencoder
from distill.cells import Cell
from distill.checkpoint import file_hash, load_model
from distill.config import TeacherConfig
from distill.errors import UserError
from distill.log_files import LogManifest, RepresentationFacts, day_file, day_is_logged
from distill.module import DistillModule
from distill.progress import Progress
from distill.protocols import Architecture
from distill.teacher_log import write_day
from distill.training import predict
from experiments.pipeline.build import build_autoencoder, build_model, build_student
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.recorder import LogRecorder
from experiments.pipeline.streams import in_domains, rows_of, streams
from experiments.pipeline.supply import Supply, open_supply, teacher_log


def days_to_log(experiment: Experiment, teacher: Cell, seed: int) -> dict[int, int]:
    """What is missing in a teacher's log: day to the day through which its snapshot was trained.

    Raises:
        UserError: a snapshot does not exist.
    """
    schedule, missing = experiment.schedule, {}
    folder, fingerprint = experiment.log_folder(teacher, seed), experiment.data.fingerprint
    for day in schedule.logged_days():
        through = schedule.snapshot_for(day)
        assert through is not None
        path = experiment.snapshot(teacher, seed, through)
        if not path.is_file():
            raise UserError(f"teacher log: no snapshot {path}. Train the teacher first (`distill teacher`).")
        if not day_is_logged(folder, day, file_hash(path), fingerprint):
            missing[day] = through
    return missing


def write_log(experiment: Experiment, teacher: Cell, seed: int, progress: Progress) -> None:
    """Write every day of a teacher's log that students read; a day that stands there already is kept."""
    _Writer(experiment, teacher, seed).write(progress)


class _Writer:
    """Of one teacher's log, one seed."""

    def __init__(self, experiment: Experiment, teacher: Cell, seed: int):
        self.experiment, self.teacher, self.seed = experiment, teacher, seed
        self.config: TeacherConfig = experiment.logged_cells[teacher]
        self.model, self.channels, self.supply = built_teacher(experiment, teacher, seed)
        self._loaded: int | None = None

    def write(self, progress: Progress) -> None:
        for day, through in days_to_log(self.experiment, self.teacher, self.seed).items():
            self._load(through)
            self._log(day, through, progress)

    def _load(self, through: int) -> None:
        if self._loaded == through:
            return
        path = self.experiment.snapshot(self.teacher, self.seed, through)
        facts = load_model(self.model, path, self.channels)
        assert facts["trained_through"] == through, (
            f"the snapshot of day {through} was trained through day {facts['trained_through']}"
        )
        self._loaded = through

    def _log(self, day: int, through: int, progress: Progress) -> None:
        experiment, config, teacher = self.experiment, self.config, self.teacher
        recorder = LogRecorder(self.channels.get("representation"))
        module = DistillModule(self.model, {}, config.optimizer, recorder, config.compute)
        days = streams(experiment, self.model, config.optimizer.batch_size, teacher.domains, self.supply)
        folder = experiment.log_folder(teacher, self.seed)
        rows = rows_of(experiment.data, [day], teacher.domains)[day]
        with progress.task(f"teacher log {teacher.model} seed {self.seed} day {day}", total=rows) as bar:
            predict(module, [days(day, False)])
            ids, logits = recorder.column("example_id"), recorder.column("logits")
            write_day(folder, ids, logits, self._manifest(day, through), recorder.representation)
            bar.advance(rows, **{"bytes per example": day_file(folder, day).stat().st_size / rows})

    def _manifest(self, day: int, through: int) -> LogManifest:
        return LogManifest(
            teacher=self.config.name,
            checkpoint=file_hash(self.experiment.snapshot(self.teacher, self.seed, through)),
            trained_through=through,
            day=day,
            lag=day - 1 - through,
            data_fingerprint=self.experiment.data.fingerprint,
            schema=self.experiment.data.schema.name,
            tasks=list(self.model.tasks),
            rows=0,
            representation=_representation_facts(self.config),
        )


def built_teacher(
    experiment: Experiment, teacher: Cell, seed: int
) -> tuple[Architecture, dict[str, Autoencoder], Supply]:
    """A teacher's model, to be loaded from its snapshots, what compresses its taps, what it is handed to predict."""
    config, schema = experiment.logged_cells[teacher], experiment.data.schema
    supply = Supply()
    if teacher == experiment.teacher_cell:
        model = build_model(teacher.role, config, config.optimizer, schema, seed, experiment.base)
    else:
        sets = experiment.channels_of(teacher)
        model, channels = build_student(config, sets, config.optimizer, schema, seed, experiment.base)
        supply = open_supply(experiment, teacher, seed, channels.values(), model.tasks)
    return model, build_autoencoder(config.representation, model, seed), supply


def _representation_facts(config: TeacherConfig) -> RepresentationFacts | None:
    asked = config.representation
    if asked is None:
        return None
    return RepresentationFacts(list(asked.taps), asked.dim, list(asked.prefixes), asked.codec)


def check_log(experiment: Experiment, teacher: Cell, seed: int) -> None:
    """Refuse a log that holds other rows than the teacher's part of the data set."""
    log = teacher_log(experiment, teacher, seed, ())
    for day in experiment.schedule.logged_days():
        outcomes = experiment.data.outcomes(day)
        mine = in_domains(experiment.data, outcomes.domain, teacher.domains)
        log.check_rows(day, outcomes.example_id[mine])
