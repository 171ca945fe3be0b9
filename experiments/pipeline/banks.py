"""Students of one shape, seed and stream are trained as one (`students.bank`), wherever they may come from.

Shape letters: N members.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, get_type_hints

from distill.cells import Cell
from distill.config import ComputeConfig, StudentConfig
from distill.errors import NonFiniteError
from distill.progress import Progress
from distill.registry import CHANNELS, STUDENTS
from distill.structured import build
from distill.training import DayCallback, DayData, DayReport, fit
from distill.user_file import is_user_file
from experiments.pipeline.build import architecture_options, build_channels, build_student
from experiments.pipeline.cost import counted_day, model_cost
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.recorder import PredictionRecorder
from experiments.pipeline.streams import with_others
from experiments.pipeline.supply import open_supply
from experiments.pipeline.training import Clock, Settings, Training, checkpoints_of, with_rows
from students.bank import Bank, BankModule, Member
from students.base import Student


@dataclass(frozen=True)
class Task:
    """One training of a student.

    Attributes:
        experiment, cell, seed: which.
    """

    experiment: Experiment
    cell: Cell
    seed: int

    @property
    def student(self) -> StudentConfig:
        """Its part of the config, with the optimiser of its channel set."""
        student = self.experiment.student_cells[self.cell]
        return replace(
            student, optimizer=student.channel_optimizers.get(self.cell.channel, student.optimizer)
        )

    @property
    def channels(self) -> Mapping[str, Mapping[str, Any]]:
        """Channel to its settings."""
        return self.experiment.channels_of(self.cell)


@dataclass
class _Group:
    """Tasks of one shape, and what their channels are but for the weight."""

    tasks: list[Task] = field(default_factory=list)
    channels: dict[str, Any] = field(default_factory=dict)


def groups(tasks: Sequence[Task], most: int) -> list[list[Task]]:
    """Trainings that can be one; all others by themselves.

    Who stands beside whom depends on what is asked for, not on what is done already: a study that was killed ends with
    the same numbers.

    Args:
        tasks: trainings of students.
        most: members of a bank at most; 1 trains every student by itself.
    """
    by_shape: dict[Hashable, list[_Group]] = defaultdict(list)
    for place, task in enumerate(tasks):
        shape = _shape(task) if most > 1 else None
        _join(by_shape[place if shape is None else shape], task, most)
    return [group.tasks for alike in by_shape.values() for group in alike]


def _join(alike: list[_Group], task: Task, most: int) -> None:
    """Put a task into the first group that has room and no other form of its channels."""
    own = {name: _but_weight(name, options) for name, options in task.channels.items()}
    for group in alike:
        same = all(group.channels.get(name, form) == form for name, form in own.items())
        if same and len(group.tasks) < most:
            break
    else:
        group = _Group()
        alike.append(group)
    group.tasks.append(task)
    group.channels |= own


def _but_weight(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    settings = asdict(build(CHANNELS.get(name).config, options))
    return {key: value for key, value in settings.items() if key != "weight"}


def _shape(task: Task) -> str | None:
    """What the members of a bank have in common, as text; None for a student that no bank can train."""
    student, experiment = task.student, task.experiment
    if is_user_file(student.architecture) or student.content or student.compute != ComputeConfig():
        return None
    # What a builder does not say it makes is trained alone.
    made = get_type_hints(STUDENTS.get(student.architecture).load()).get("return", object)
    channels = build_channels(task.channels, experiment.data.schema, task.seed)
    if not issubclass(made, Student) or not all(channel.in_banks for channel in channels.values()):
        return None
    log = None if experiment.teacher_cell is None else experiment.log_folder(_teacher(task), task.seed)
    return json.dumps(
        {
            "architecture": [student.architecture, architecture_options("student", student)],
            "reads": [student.tasks, student.features, student.dense, task.cell.domains],
            "learns": [student.delayed_labels, student.negative_sampling, student.optimizer.batch_size],
            "given": [name for name, channel in channels.items() if channel.fields],
            "others": {name: one.other_surfaces for name, one in channels.items() if one.other_surfaces},
            "log": None if log is None else str(log.resolve()),
            "days": [asdict(experiment.config.schedule), experiment.schedule.last_day],
            "data": [experiment.data.fingerprint, str(experiment.data.folder)],
            "seed": task.seed,
            "threads": experiment.config.threads,
        }
    )


def _teacher(task: Task) -> Cell:
    return task.experiment.teacher_of(task.cell)


def train_bank(tasks: Sequence[Task], progress: Progress) -> None:
    """Train students as one; each leaves behind what it would alone, with its share of the time.

    Args:
        tasks: a group of `groups`.
        progress: shown to the user.

    Raises:
        NonFiniteError: a student's loss or gradient was not finite; the others have been trained and kept.
    """
    clock, first = Clock(), tasks[0]
    plan, rows = with_rows(first.experiment, first.cell, first.experiment.schedule.student_plan())
    trainings: dict[int, Training] = {}

    def member(place: int) -> Member:
        trainings[place] = training = _training(tasks[place])
        training.start_at_base_rates(plan.train[0])
        return Member(training.model, training.channels, training.settings.optimizer)

    bank = Bank([partial(member, place) for place in range(len(tasks))])
    recorders = [PredictionRecorder() for _ in tasks]
    # Their channels ask for the same, or for nothing.
    asking = max(trainings.values(), key=lambda training: training.supply.log is not None)
    reading = replace(asking, model=bank.plain, channels=bank.forms)
    days = reading.days()
    cost = model_cost(bank.plain, days(counted_day(first.experiment.schedule, plan), False))
    title = f"{first.cell.model} {first.cell.vertical} seed {first.seed}, {len(tasks)} students"
    module = BankModule([bank], [recorders])
    checkpoints = checkpoints_of([trainings[place] for place in range(len(tasks))], plan)
    rows = with_others(first.experiment, rows, reading.supply)
    callback = DayCallback(plan, progress, rows, title, before_day=reading.begin_day)
    reports = fit(module, DayData(days, plan), callback, checkpoints)
    wall, cpu = clock.read()
    wall, cpu = wall + checkpoints.seconds, cpu + checkpoints.cpu_seconds
    for place in bank.alive:
        bank.plain.load_state_dict(bank.export(place))
        own = [_share(report, module, place, day) for day, report in enumerate(reports)]
        trained = replace(trainings[place], model=bank.plain)
        trained.leave_behind(
            recorders[place],
            cost,
            own,
            wall / len(tasks),
            cpu / len(tasks),
            bank=len(tasks),
            members=[name_in_bank(task) for task in tasks],
        )
    checkpoints.store.remove()
    _refuse_frozen(bank, tasks)


def name_in_bank(task: Task) -> str:
    """What tells a member from the others, in the report that each leaves behind."""
    return f"{task.cell.cell_id} {task.experiment.settings_hash(task.cell, task.seed)}"


def _training(task: Task) -> Training:
    experiment, student = task.experiment, task.student
    model, channels = build_student(
        student, task.channels, student.optimizer, experiment.data.schema, task.seed, experiment.base
    )
    supply = open_supply(experiment, task.cell, task.seed, channels.values(), model.tasks)
    return Training(experiment, task.cell, task.seed, model, channels, Settings.of(student), supply)


def _share(report: DayReport, module: BankModule, place: int, day: int) -> DayReport:
    """A day as of one member: its own means, and an equal part of examples and time."""
    (bank,) = module.banks
    assert isinstance(bank, Bank)
    means = {name: values[place].item() for name, values in module.day_means[day][0].items()}
    return replace(
        report,
        examples_seen=report.examples_seen // bank.size,
        means={
            name: mean for name, mean in means.items() if mean == mean
        },  # NaN: of a channel it does not have
        seconds=report.seconds / bank.size,
        cpu_seconds=report.cpu_seconds / bank.size,
    )


def _refuse_frozen(bank: Bank, tasks: Sequence[Task]) -> None:
    if bank.frozen:
        told = [
            f"{tasks[place].cell.model} {tasks[place].cell.vertical} {tasks[place].cell.channel} seed "
            f"{tasks[place].seed}: {why}"
            for place, why in sorted(bank.frozen.items())
        ]
        raise NonFiniteError(f"{'; '.join(told)}. Lower their learning rates; the others have been trained")
