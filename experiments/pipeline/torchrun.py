"""`torchrun --nproc-per-node N -m experiments run EXPERIMENT`: N processes train the teacher as one, then share the
students.

The first process does what `distill run` always does, and calls the others through torchrun's store. To train the
teacher all of them form a process group for that training, and the first one alone writes files. Domain teachers and
students are small: they are dealt out, and each process trains its own by itself, bit for bit as one process would all
of them. Logs are jobs of the first process. All processes need the same run folder and cache, also on several machines.

When one of them fails, torchrun ends all; with `--max-restarts` it starts them again, and they go on from the newest
checkpoint. When torchrun itself is killed, they stop.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from distill.cells import Cell
from distill.errors import UserError
from distill.load_config import LoadedConfig
from distill.progress import NoProgress, Progress
from experiments.pipeline.banks import Task
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.pool import Job, default_workers, run_in_pool
from experiments.pipeline.run import open_experiment
from experiments.pipeline.work import tasks_of, train_teacher_job, training_job
from kernels.embedding.process_group import TORCHRUN

_POLL_SECONDS = 0.5
_LONGEST_STEP = timedelta(hours=1)
"""One process waits for another so long at most; torchrun ends all of them when one has failed."""

_TOGETHER, _DEAL, _END = "together", "deal", "end"
_LOCAL, _RESTARTS = "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"

Named = list[tuple[str, int]]
"""A training by the ids of its cells and their seeds: one, or the members of a bank."""


@dataclass(frozen=True)
class Meeting:
    """Where the processes of one torchrun find each other.

    Attributes:
        rank: number of this process.
        world: number of processes.
        local: number of those on this machine.
        host, port: of torchrun's store.
        attempt: how often torchrun has started all of them again. Its store outlives them.
    """

    rank: int
    world: int
    local: int
    host: str
    port: int
    attempt: int

    @staticmethod
    def taken() -> Meeting:
        """What torchrun's variables say. They are taken away: processes started from here on work alone."""
        rank, world, host, port = (os.environ.pop(name) for name in TORCHRUN)
        local, attempt = int(os.environ.pop(_LOCAL)), int(os.environ.get(_RESTARTS, 0))
        return Meeting(int(rank), int(world), local, host, int(port), attempt)

    def store(self) -> dist.Store:
        """Torchrun's store, under names of our own."""
        store = dist.TCPStore(self.host, self.port, is_master=False, wait_for_workers=False)
        return dist.PrefixStore(f"distill/{self.attempt}", store)


class TogetherRunner:
    """Trains the teacher together with the other processes and deals out domain teachers and students; what is no
    training runs in processes of this machine.

    Args:
        meeting: of the first process.
    """

    def __init__(self, meeting: Meeting):
        assert meeting.rank == 0, f"rank {meeting.rank} follows"
        self._meeting, self._store, self._called = meeting, meeting.store(), 0

    def __enter__(self) -> TogetherRunner:
        stop_with_torchrun()
        return self

    def __exit__(self, *error: object) -> None:
        self._call(_END, [])

    def __call__(self, jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
        """Run every job; see `pool.run_in_processes`."""
        for job in jobs:
            if _is_of_the_teacher(job):
                self._train_together(job, title, progress)
        dealt = [job for job in jobs if tasks_of(job) and not _is_of_the_teacher(job)]
        if dealt:
            self._deal(dealt, title, workers, progress)
        others = [job for job in jobs if not tasks_of(job)]
        if others:
            run_in_pool(others, title, workers, progress)

    def _train_together(self, job: Job, title: str, progress: Progress) -> None:
        number = self._call(_TOGETHER, [job])
        arguments = (self._meeting, number, *job.arguments)
        run_in_pool([Job(_train_together, arguments, job.examples, job.folders)], title, 1, progress)

    def _deal(self, jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
        """Train the first process's share of some jobs, and wait for the others."""
        number = self._call(_DEAL, jobs)
        _train_share(self._meeting, jobs, title, workers, progress)
        others = [_done(number, rank) for rank in range(1, self._meeting.world)]
        with progress.task(f"{title} of the other processes"):
            while not self._store.check(others):
                time.sleep(_POLL_SECONDS)

    def _call(self, verb: str, jobs: Sequence[Job]) -> int:
        """Tell the others what is next; its number."""
        number, self._called = self._called, self._called + 1
        trainings = [[(task.cell.cell_id, task.seed) for task in tasks_of(job)] for job in jobs]
        self._store.set(_key(number), json.dumps([verb, trainings]))
        return number


def follow(meeting: Meeting, loaded: LoadedConfig, final: bool) -> None:
    """Do what the first process calls for, until it has finished.

    Args:
        meeting: of another process than the first.
        loaded: the experiment.
        final: as the first process was told.

    Raises:
        KeyboardInterrupt: SIGTERM while its share is trained; after the trainings under way have saved their state.
    """
    stop_with_torchrun()
    store, number = meeting.store(), 0
    while (call := _next(store, number))[0] != _END:
        verb, trainings = call
        experiment = open_experiment(loaded, final, NoProgress())
        tasks = [_found(experiment, members) for members in trainings]
        if verb == _TOGETHER:
            ((task,),) = tasks
            _train_together(meeting, number, experiment, task.cell, task.seed, NoProgress())
        else:
            jobs = [training_job(members, rows=0) for members in tasks]
            workers = experiment.config.workers or default_workers()
            with _interrupted_by_sigterm():
                _train_share(meeting, jobs, "share", workers, NoProgress())
            store.set(_done(number, meeting.rank), "")
        number += 1


def stop_with_torchrun() -> None:
    """Get SIGTERM when torchrun, this process's parent, has been killed and could not say so. Training on would meet
    the repeated command in the same folder."""
    torchrun = os.getppid()

    def watch() -> None:
        while os.getppid() == torchrun:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the processes that this one has started before it ends this one.

    Not while the teacher is trained: a process that waits for another one, inside of gloo or the store, would not hear
    it.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _found(experiment: Experiment, members: Named) -> list[Task]:
    cells = {cell.cell_id: cell for cell in (*experiment.logged_cells, *experiment.student_cells)}
    for cell_id, _ in members:
        assert cell_id in cells, f"the processes read different experiments: the first one has {cell_id}"
    return [Task(experiment, cells[cell_id], seed) for cell_id, seed in members]


def _train_share(meeting: Meeting, jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
    """Every N-th of some jobs, the longest first; a machine's processes share its workers."""
    own = jobs[meeting.rank :: meeting.world]
    if own:
        run_in_pool(own, title, max(1, workers // meeting.local), progress)


def _train_together(
    meeting: Meeting, number: int, experiment: Experiment, cell: Cell, seed: int, progress: Progress
) -> None:
    """Train the teacher as one of all processes."""
    store = dist.PrefixStore(f"group/{number}", meeting.store())
    dist.init_process_group(
        "gloo", store=store, rank=meeting.rank, world_size=meeting.world, timeout=_LONGEST_STEP
    )
    try:
        train_teacher_job(experiment, cell, seed, progress)
        dist.barrier()
    finally:
        dist.destroy_process_group()  # left standing, gloo's threads abort the process at its end


def _is_of_the_teacher(job: Job) -> bool:
    return any(task.cell == task.experiment.teacher_cell for task in tasks_of(job))


def _next(store: dist.Store, number: int) -> tuple[str, list[Named]]:
    """The call of that number, once it is there: what is to be done, and which trainings."""
    while not store.check([_key(number)]):
        time.sleep(_POLL_SECONDS)
    verb, trainings = json.loads(store.get(_key(number)))
    return verb, trainings


def _key(number: int) -> str:
    return f"call/{number}"


def _done(number: int, rank: int) -> str:
    """Set when a process has trained its share of a call."""
    return f"done/{number}/{rank}"


def refuse_both(on: str | None) -> None:
    """Refuse Ray under torchrun.

    Raises:
        UserError: both.
    """
    if on is not None:
        raise UserError(
            "--on: got ray under torchrun, allowed: one of them. Train the teacher under torchrun first, then repeat "
            "the command with `--on ray`"
        )
