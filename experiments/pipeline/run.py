"""`distill run`: the steps in order, in a folder that always says how far they came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from distill.alone import alone
from distill.cells import Cell
from distill.config import StudentConfig, TeacherConfig
from distill.dataset import prepare
from distill.load_config import LoadedConfig
from distill.progress import Progress
from distill.schedule import Schedule
from experiments.pipeline import jobs, logs, past
from experiments.pipeline.banks import Task
from experiments.pipeline.build import build_model
from experiments.pipeline.environment import trace_test_read
from experiments.pipeline.experiment import LOCKS, Experiment
from experiments.pipeline.floor import run_floor
from experiments.pipeline.pool import Job, default_workers, run_jobs
from experiments.pipeline.rehearsal import rehearse
from experiments.pipeline.run_folder import claim
from experiments.pipeline.scoring import predicted_cells, score, write_metrics
from experiments.pipeline.status import RunStatus
from experiments.pipeline.streams import rows_of
from experiments.pipeline.work import job_of, training_jobs, write_log_job, write_past_job
from experiments.tracking import Tracker, open_tracker

STEPS = ("teacher", "log", "student", "score")


def run(loaded: LoadedConfig, final: str | None, steps: Sequence[str], progress: Progress) -> Path:
    """Do the steps of an experiment that are not done yet.

    Args:
        loaded: the experiment.
        final: reason for reading the test days; None leaves them alone.
        steps: some of STEPS, in their order.
        progress: shown to the user.

    Returns:
        The run folder.

    Raises:
        UserError: settings, data or folder that do not fit; another command at work in the folder.
        KeyboardInterrupt: after the folder was marked as interrupted.
    """
    folder = Path(loaded.config.output)
    with alone(folder / LOCKS / "run", f"output: {folder}", progress):
        claim(loaded, progress)
        with RunStatus(folder, loaded.config_hash, final) as step:
            step("data")
            experiment = open_experiment(loaded, final is not None, progress)
            if final is not None:
                trace_test_read(loaded.config_hash, final)
            tracker = open_tracker(experiment, loaded.to_yaml())
            for name in STEPS:
                if name in steps:
                    step(name)
                    _STEP[name](experiment, tracker, progress)
    return folder


def open_experiment(loaded: LoadedConfig, final: bool, progress: Progress) -> Experiment:
    """Prepare the data, or find it prepared, and open the experiment on it."""
    data = prepare(loaded.config.data, progress)
    schedule = Schedule(loaded.config.schedule, data.schema.n_days, final)
    return Experiment(loaded.config, loaded.config_hash, loaded.base, data, schedule)


def run_cells(
    experiment: Experiment, cells: Sequence[Cell], progress: Progress, title: str = "students"
) -> None:
    """Train what is not done yet of some cells, all seeds, as many at once as there are workers."""
    tasks = [Task(experiment, cell, seed) for cell in cells for seed in experiment.config.seeds]
    run_tasks(tasks, progress, title)


def run_tasks(tasks: Sequence[Task], progress: Progress, title: str = "students") -> None:
    """Train what is not done yet, of one experiment or several; workers and banks are the first one's settings.

    Args:
        tasks: trainings of teachers, of domain teachers or of students.
        progress: shown to the user.
        title: the bar's name.
    """
    if tasks:
        _run(tasks[0].experiment, training_jobs(tasks, tasks[0].experiment.config.bank), title, progress)


def train_teachers(experiment: Experiment, progress: Progress) -> None:
    """The teacher and its log; then the domain teachers, who learn from it, and theirs."""
    for title, cells in _generations(experiment).items():
        run_cells(experiment, cells, progress, title)
        write_logs(experiment, cells, progress)


def _teachers(experiment: Experiment, tracker: Tracker, progress: Progress) -> None:
    """The teacher; then, from its log, the domain teachers."""
    rehearse(experiment)
    for title, cells in _generations(experiment).items():
        for cell in cells:
            tracker.start(cell)
            _show_cost(experiment, cell, experiment.logged_cells[cell], progress)
        run_cells(experiment, cells, progress, title)
        if experiment.domain_cells and cells == [experiment.teacher_cell]:
            write_logs(experiment, cells, progress)


def _logs(experiment: Experiment, tracker: Tracker, progress: Progress) -> None:
    for cells in _generations(experiment).values():
        write_logs(experiment, cells, progress)


def _generations(experiment: Experiment) -> dict[str, list[Cell]]:
    """Teachers that can be trained side by side, by a title; the later ones learn from the first."""
    first = [] if experiment.teacher_cell is None else [experiment.teacher_cell]
    generations = {"teacher": first, "domain teachers": list(experiment.domain_cells)}
    return {title: cells for title, cells in generations.items() if cells}


def write_logs(experiment: Experiment, teachers: Sequence[Cell], progress: Progress) -> None:
    """What is missing of the logs of some teachers, and of the pasts that students read of them."""
    both = [(teacher, seed) for teacher in teachers for seed in experiment.config.seeds]
    work = []
    for teacher, seed in both:
        missing = list(logs.days_to_log(experiment, teacher, seed))
        if missing:
            rows = sum(rows_of(experiment.data, missing, teacher.domains).values())
            work.append(job_of([experiment], write_log_job, (experiment, teacher, seed), rows))
    _run(experiment, work, "teacher log", progress)
    for teacher, seed in both:
        logs.check_log(experiment, teacher, seed)
    write_pasts(experiment, teachers, progress)


def write_pasts(experiment: Experiment, teachers: Sequence[Cell], progress: Progress) -> None:
    """What is missing of the pasts that students read of some teachers' logs."""
    days = len(experiment.schedule.logged_days())
    work = [
        job_of([experiment], write_past_job, (experiment, teacher, seed, request), days)
        for teacher in teachers
        for seed in experiment.config.seeds
        for request in past.missing(experiment, teacher, seed)
    ]
    _run(experiment, work, "teacher's past", progress)


def _students(experiment: Experiment, tracker: Tracker, progress: Progress) -> None:
    shown = set()
    for cell, student in experiment.student_cells.items():
        tracker.start(cell)
        if student.name not in shown:  # on its first surface; on another one only its histories differ
            shown.add(student.name)
            _show_cost(experiment, cell, student, progress)
    run_cells(experiment, list(experiment.student_cells), progress)


def _show_cost(
    experiment: Experiment, cell: Cell, model: TeacherConfig | StudentConfig, progress: Progress
) -> None:
    """One line about the size of a model, unless it has been trained already."""
    seeds = [seed for seed in experiment.config.seeds if not jobs.is_done(experiment, cell, seed)]
    if seeds:
        with progress.task(f"{cell.model} {cell.vertical} size") as bar:
            built = build_model(
                cell.role, model, model.optimizer, experiment.data.schema, seeds[0], experiment.base
            )
            bar.advance(0, **jobs.cost_of(experiment, cell, built, model.optimizer.batch_size).shown())


def _scores(experiment: Experiment, tracker: Tracker, progress: Progress) -> None:
    if experiment.config.floor:
        run_floor(experiment, progress)
    sources = predicted_cells(experiment, experiment.config.seeds)
    write_metrics(experiment, sources)
    with progress.task("scores and transfer ratios"):
        score(experiment, sources)
    with progress.task("W&B runs", total=len(sources), unit="runs") as bar:
        for source in sources:
            tracker.finish(source.cell)
            bar.advance(1)


_STEP: dict[str, Callable[[Experiment, Tracker, Progress], None]] = {
    "teacher": _teachers,
    "log": _logs,
    "student": _students,
    "score": _scores,
}


def _run(experiment: Experiment, work: list[Job], title: str, progress: Progress) -> None:
    run_jobs(work, title, experiment.config.workers or default_workers(), progress)
