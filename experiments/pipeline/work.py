"""What processes are given to do, and the trainings that are still to be done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from distill.alone import alone
from distill.cells import Cell
from distill.distributed import is_first
from distill.past import PastRequest
from distill.progress import Progress
from experiments.pipeline import jobs, logs, past
from experiments.pipeline.banks import Task, groups, name_in_bank, train_bank
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.pool import Job
from experiments.pipeline.streams import rows_of
from experiments.pipeline.training import read_report


def train_teacher_job(experiment: Experiment, cell: Cell, seed: int, progress: Progress) -> None:
    """`jobs.train_teacher` in a process of its own."""
    _compute(experiment)
    with _alone([Task(experiment, cell, seed)], progress):
        jobs.train_teacher(experiment, cell, seed, progress)


def write_log_job(experiment: Experiment, teacher: Cell, seed: int, progress: Progress) -> None:
    """`logs.write_log` in a process of its own."""
    _compute(experiment)
    with _alone([Task(experiment, teacher, seed)], progress):
        logs.write_log(experiment, teacher, seed, progress)


def write_past_job(
    experiment: Experiment, teacher: Cell, seed: int, request: PastRequest, progress: Progress
) -> None:
    """`past.write` in a process of its own."""
    _compute(experiment)
    past.write(experiment, teacher, seed, request, progress)


def train_student_job(experiment: Experiment, cell: Cell, seed: int, progress: Progress) -> None:
    """`jobs.train_student` in a process of its own."""
    _compute(experiment)
    with _alone([Task(experiment, cell, seed)], progress):
        jobs.train_student(experiment, cell, experiment.student_cells[cell], seed, progress)


def train_bank_job(tasks: Sequence[Task], progress: Progress) -> None:
    """`banks.train_bank` in a process of its own."""
    _compute(tasks[0].experiment)
    with _alone(tasks, progress):
        train_bank(tasks, progress)


def _compute(experiment: Experiment) -> None:
    """Registries, threads and compiler of a fresh process."""
    import experiments.catalog  # noqa: F401  fills the registries

    torch.set_num_threads(experiment.config.threads)
    # A process may do several jobs; each compiles its own model, and torch compiles a function a few times at most.
    torch.compiler.reset()


@contextmanager
def _alone(tasks: Sequence[Task], progress: Progress) -> Iterator[None]:
    """Be the only one that trains these models: a process whose parent was killed may still be saving its state. Of
    several processes that train together the first one speaks for all."""
    with ExitStack() as places:
        for task in tasks if is_first() else ():
            what = f"{task.cell.model} {task.cell.vertical} {task.cell.channel} seed {task.seed}"
            lock = task.experiment.lock(task.cell, task.seed)
            places.enter_context(alone(lock, f"{task.experiment.folder}, {what}", progress))
        yield


def _rows_read(experiment: Experiment, cell: Cell, others: float) -> int:
    """Examples that one training reads, about.

    Args:
        experiment, cell: which.
        others: share of the other surfaces' rows that it reads as well.
    """
    schedule, is_teacher = experiment.schedule, cell in experiment.logged_cells
    plan = schedule.teacher_plan() if is_teacher else schedule.student_plan()
    own = rows_of(experiment.data, plan.train, cell.domains)
    taught = [day for day in plan.train if others and schedule.told_through(day) is not None]
    return sum(own.values()) + round(
        others * sum(experiment.data.rows_per_day[day] - own[day] for day in taught)
    )


def training_jobs(tasks: Sequence[Task], most: int) -> list[Job]:
    """The trainings that are not done yet, the longest first, so that no process is left alone with one at the end.

    Args:
        tasks: of teachers, domain teachers or students.
        most: students of a bank at most.
    """
    students = [task for task in tasks if task.cell not in task.experiment.logged_cells]
    teachers = [[task] for task in tasks if task.cell in task.experiment.logged_cells]
    missing = [rest for members in (*teachers, *groups(students, most)) if (rest := to_be_trained(members))]
    rows = _Rows()
    missing.sort(key=lambda members: -len(members) * rows.of(members[0]))
    return [training_job(members, rows.of(members[0])) for members in missing]


def training_job(members: Sequence[Task], rows: int) -> Job:
    """One training.

    Args:
        members: of a bank, or one teacher, domain teacher or student.
        rows: that each of them reads.
    """
    if len(members) > 1:
        # Progress counts the examples of all members.
        examples = len(members) * rows
        return job_of([task.experiment for task in members], train_bank_job, (members,), examples)
    (task,) = members
    is_teacher = task.cell in task.experiment.logged_cells
    function = train_teacher_job if is_teacher else train_student_job
    return job_of([task.experiment], function, (task.experiment, task.cell, task.seed), rows)


def tasks_of(job: Job) -> Sequence[Task]:
    """What a job trains, as given to `training_job`; nothing where it does something else."""
    if job.function is train_bank_job:
        return job.arguments[0]
    return [Task(*job.arguments)] if job.function in (train_teacher_job, train_student_job) else []


def job_of(
    experiments: Sequence[Experiment],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    examples: int,
) -> Job:
    """A job that writes to the run folders of these experiments, with as many threads as the first one allows."""
    folders = tuple(dict.fromkeys(experiment.folder for experiment in experiments))
    return Job(function, arguments, examples, folders, experiments[0].config.threads)


def to_be_trained(members: Sequence[Task]) -> list[Task]:
    """Who of a group is not done yet, and who was trained beside them.

    A bank that was stopped while it left its members behind is trained again as it was, so that they end with the same
    numbers; one that has got new members is not.
    """
    missing = {name_in_bank(task) for task in members if not _is_done(task)}
    return [task for task in members if missing and missing & {name_in_bank(task), *_beside(task)}]


def _is_done(task: Task) -> bool:
    return jobs.is_done(task.experiment, task.cell, task.seed)


def _beside(task: Task) -> list[str]:
    """Who was trained in one bank with a student that is done; nobody where it is not."""
    if not _is_done(task):
        return []
    return read_report(task.experiment, task.cell, task.seed).get("members", [])


def _asked_of_others(options: Mapping[str, Any]) -> float:
    """Share of the other surfaces' rows that a channel of these settings learns from."""
    return options.get("other_surfaces", 0.0) if options.get("weight", 1.0) else 0.0


class _Rows:
    """Examples that trainings read, counted once for those that read the same."""

    def __init__(self) -> None:
        self._counted: dict[Any, int] = {}

    def of(self, task: Task) -> int:
        experiment, cell = task.experiment, task.cell
        others = max(map(_asked_of_others, experiment.channels_of(cell).values()), default=0.0)
        key = (
            cell.domains,
            cell.role,
            others,
            json.dumps(vars(experiment.config.schedule)),
            experiment.data.fingerprint,
        )
        if key not in self._counted:
            self._counted[key] = _rows_read(experiment, cell, others)
        return self._counted[key]
