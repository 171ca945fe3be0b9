"""`torchrun --nproc-per-node N -m experiments run EXPERIMENT`: the teacher is trained by N processes as one.

The first process does what `distill run` always does, and alone writes files. To train the teacher it calls the others
through torchrun's store, and all of them form a process group for that training. Logs and students are jobs of one
process each, as ever: the others wait meanwhile.

When one of them fails, torchrun ends all; with `--max-restarts` it starts them again, and they go on from the newest
checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from distill.cells import Cell
from distill.errors import UserError
from distill.load_config import LoadedConfig
from distill.progress import NoProgress, Progress
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.pool import Job, run_in_pool
from experiments.pipeline.run import open_experiment
from experiments.pipeline.work import train_teacher_job
from kernels.embedding.process_group import TORCHRUN

_POLL_SECONDS = 0.5
_LONGEST_STEP = timedelta(hours=1)
"""One process waits for another so long at most; torchrun ends all of them when one has failed."""

_END = "end"
_RESTARTS = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True)
class Meeting:
    """Where the processes of one torchrun find each other.

    Attributes:
        rank: number of this process.
        world: number of processes.
        host, port: of torchrun's store.
        attempt: how often torchrun has started all of them again. Its store outlives them.
    """

    rank: int
    world: int
    host: str
    port: int
    attempt: int

    @staticmethod
    def taken() -> Meeting:
        """What torchrun's variables say. They are taken away: processes started from here on work alone."""
        rank, world, host, port = (os.environ.pop(name) for name in TORCHRUN)
        return Meeting(int(rank), int(world), host, int(port), int(os.environ.get(_RESTARTS, 0)))

    def store(self) -> dist.Store:
        """Torchrun's store, under names of our own."""
        store = dist.TCPStore(self.host, self.port, is_master=False, wait_for_workers=False)
        return dist.PrefixStore(f"distill/{self.attempt}", store)


class TogetherRunner:
    """Trains the teacher together with the other processes; all other jobs run in processes of this machine.

    Args:
        meeting: of the first process.
    """

    def __init__(self, meeting: Meeting):
        assert meeting.rank == 0, f"rank {meeting.rank} follows"
        self._meeting, self._store, self._called = meeting, meeting.store(), 0

    def __enter__(self) -> TogetherRunner:
        return self

    def __exit__(self, *error: object) -> None:
        self._call(_END)

    def __call__(self, jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
        """Run every job; see `pool.run_in_processes`."""
        together = [job for job in jobs if _is_of_the_teacher(job)]
        for job in together:
            _, cell, seed = job.arguments
            number = self._call(f"{cell.cell_id} {seed}")
            shared = Job(_train_together, (self._meeting, number, *job.arguments), job.examples, job.folders)
            run_in_pool([shared], title, 1, progress)
        alone = [job for job in jobs if not _is_of_the_teacher(job)]
        if alone:
            run_in_pool(alone, title, workers, progress)

    def _call(self, word: str) -> int:
        """Tell the others what is next; its number."""
        number, self._called = self._called, self._called + 1
        self._store.set(_key(number), word)
        return number


def follow(meeting: Meeting, loaded: LoadedConfig, final: bool) -> None:
    """Do what the first process calls for, until it has finished.

    Args:
        meeting: of another process than the first.
        loaded: the experiment.
        final: as the first process was told.
    """
    store, number = meeting.store(), 0
    while (word := _next(store, number)) != _END:
        cell_id, seed = word.split()
        experiment = open_experiment(loaded, final, NoProgress())
        cell = experiment.teacher_cell
        assert cell is not None and cell.cell_id == cell_id, "the processes read different experiments"
        _train_together(meeting, number, experiment, cell, int(seed), NoProgress())
        number += 1


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
    if job.function is not train_teacher_job:
        return False
    experiment, cell, _ = job.arguments
    return cell == experiment.teacher_cell


def _next(store: dist.Store, number: int) -> str:
    """The word of that number, once it is there."""
    while not store.check([_key(number)]):
        time.sleep(_POLL_SECONDS)
    return store.get(_key(number)).decode()


def _key(number: int) -> str:
    return f"call/{number}"


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
