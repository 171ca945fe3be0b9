"""Runs jobs as Ray tasks, on this machine or on all machines of a cluster (`--on ray[:ADDRESS]`).

A job whose worker is lost runs again elsewhere: jobs write whole files or none, from a seed of their own, so that the
result is the one that a single machine gives. Every machine must see the command's working folder and the folders
that jobs write to under the same paths (a shared file system), and hold the same versions; each task checks that
before it begins.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.progress import Progress, Task
from experiments.pipeline.environment import versions
from experiments.pipeline.pool import Job

ATTEMPTS = 4
"""How often a job is begun at most; only a lost worker begins it again, an error of the job never does."""

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 10


class RayRunner:
    """Runs jobs on Ray; the connection is made for the first ones, and ends with the context.

    Args:
        address: of a running cluster, as `ray.init` takes it; None starts Ray on this machine.

    Raises:
        UserError: Ray is not installed; no cluster at the address.
    """

    def __init__(self, address: str | None):
        if find_spec("ray") is None:
            raise UserError(
                "--on: got ray, which is not installed. Install it: pip install 'gem-distill[ray]'"
            )
        self._address = address
        self._open = ExitStack()

    def __enter__(self) -> RayRunner:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def __call__(self, jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
        """Run every job, as many at once as the cluster has processors for.

        Args:
            jobs: at least one; independent of each other.
            title: the bar's name.
            workers: jobs at once where Ray is started here; a cluster knows by itself.
            progress: shown to the user.

        Raises:
            Exception: the first error of a job; nothing more is started then, what is under way ends and is kept.
            UserError: a machine that does not see the folders or has other versions.
            RuntimeError: a job that was lost ATTEMPTS times.
            KeyboardInterrupt: after the jobs under way were stopped.
        """
        self._connect(workers * max(job.threads for job in jobs))
        examples = sum(job.examples for job in jobs)
        with progress.task(title, total=examples, unit="examples") as bar, _marked(jobs) as place:
            _Round(jobs, place, bar).run()

    def _connect(self, processors: int) -> None:
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here: dict[str, Any] = (
            {"num_cpus": processors, "include_dashboard": False} if self._address is None else {}
        )
        # Ray would leave the process at SIGTERM; whoever called has an answer of their own (RunStatus).
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=self._address or "local", log_to_driver=False, logging_level=logging.ERROR, **here
            )
        except (ConnectionError, ValueError) as error:
            raise UserError(
                f"--on: got ray:{self._address}, allowed: the address of a running Ray cluster (`ray start --head` "
                f"prints it), or `ray` alone to start one here ({error})"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, handler)
        self._open.callback(ray.shutdown)


@dataclass(frozen=True)
class _Place:
    """What every machine must have in common with the one that the command was given on.

    Attributes:
        working: the folder that relative paths start from.
        marks: a file in each folder that jobs write to.
        versions: of what determines results.
    """

    working: Path
    marks: tuple[Path, ...]
    versions: dict[str, str]

    def enter(self) -> None:
        """Stand in the working folder.

        Raises:
            UserError: this machine sees other folders, or has other versions.
        """
        for name, allowed in self.versions.items():
            got = versions()[name]
            if got != allowed:
                raise UserError(
                    f"--on ray: machine '{platform.node()}': {name}: got version {got}, allowed: {allowed}, as on "
                    "the machine the command was given on. Install the same everywhere"
                )
        for path in (self.working, *self.marks):
            if not path.exists():
                folder = path if path == self.working else path.parent
                raise UserError(
                    f"--on ray: machine '{platform.node()}' does not see the folder {folder} of the machine that the "
                    "command was given on. All machines must share it under the same path (a network file system)"
                )
        os.chdir(self.working)


@contextmanager
def _marked(jobs: Sequence[Job]) -> Iterator[_Place]:
    """The place of some jobs, with a mark in each folder of theirs while the context lasts."""
    name = f".ray-{uuid.uuid4().hex}"
    folders = {folder.absolute() for job in jobs for folder in job.folders}
    marks = tuple(folder / name for folder in sorted(folders))
    try:
        for mark in marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        yield _Place(Path.cwd(), marks, versions())
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


class _Round:
    """Some jobs under way.

    Args:
        jobs: all of them.
        place: theirs.
        bar: shows how far they are.
    """

    def __init__(self, jobs: Sequence[Job], place: _Place, bar: Task):
        import ray

        self._ray: Any = ray
        self._jobs, self._place, self._bar = jobs, place, bar
        # It takes no processor from the jobs, and comes back where the machine that it was on is lost.
        actor: Any = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Counter)
        self._counter = actor.remote()
        self._attempts = [0] * len(jobs)
        self._pending: dict[Any, int] = {}
        self._finished = self._shown = 0

    def run(self) -> None:
        """Until every job has ended, or one by an error."""
        try:
            for index in range(len(self._jobs)):
                self._begin(index)
            while self._pending:
                self._look()
        except Exception:
            self._ray.get(self._counter.stop.remote())
            self._ray.wait(list(self._pending), num_returns=max(1, len(self._pending)))
            raise
        except KeyboardInterrupt:
            for task in self._pending:
                self._ray.cancel(task)
            self._ray.wait(
                list(self._pending), num_returns=max(1, len(self._pending)), timeout=_GRACE_SECONDS
            )
            raise
        finally:
            self._ray.kill(self._counter)

    def _begin(self, index: int) -> None:
        job = self._jobs[index]
        self._attempts[index] += 1
        task = self._ray.remote(num_cpus=job.threads, max_retries=0)(_run)
        self._pending[task.remote(job, index, self._place, self._counter)] = index

    def _look(self) -> None:
        """Wait a moment, take what has ended, begin again what was lost."""
        done, _ = self._ray.wait(list(self._pending), timeout=_POLL_SECONDS)
        for task in done:
            index = self._pending.pop(task)
            if self._ended(task, index):
                self._finished += self._jobs[index].examples
            else:
                self._begin(index)
        under_way = self._ray.get(self._counter.done.remote(list(self._pending.values())))
        ended = len(self._jobs) - len(self._pending)
        lost = sum(self._attempts) - len(self._jobs)
        shown = {"jobs": f"{ended}/{len(self._jobs)}"} | ({"lost": lost} if lost else {})
        self._bar.advance(self._finished + under_way - self._shown, **shown)
        self._shown = self._finished + under_way

    def _ended(self, task: Any, index: int) -> bool:
        """True when a task has done its job, False when it was lost and may begin again."""
        try:
            self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:  # the job's own
            raise error.cause from error
        except self._ray.exceptions.RayError as loss:  # of the worker or its machine
            if self._attempts[index] == ATTEMPTS:
                raise RuntimeError(f"a job was lost {ATTEMPTS} times, at last so: {loss}") from loss
            return False
        return True


def _run(job: Job, index: int, place: _Place, counter: Any) -> None:
    """One attempt at a job, on whatever machine."""
    import ray

    place.enter()
    if ray.get(counter.begin.remote(index)):
        job.function(*job.arguments, progress=_Counting(index, counter))


class _Counter:
    """Examples read so far by each job under way; an attempt counts from 0. Says whether jobs may begin."""

    def __init__(self) -> None:
        self._done: dict[int, int] = {}
        self._stopped = False

    def begin(self, index: int) -> bool:
        """Note a new attempt; False when none is wanted any more."""
        self._done[index] = 0
        return not self._stopped

    def report(self, index: int, done: int) -> None:
        """Note how far an attempt is."""
        self._done[index] = done

    def done(self, indices: Sequence[int]) -> int:
        """Examples read by these jobs."""
        return sum(self._done.get(index, 0) for index in indices)

    def stop(self) -> None:
        """Let no further job begin."""
        self._stopped = True


class _Counting:
    """Progress of a job: told to the counter now and then, shown nowhere else."""

    def __init__(self, index: int, counter: Any):
        self._index, self._counter = index, counter
        self._done, self._next = 0, 0.0

    @contextmanager
    def task(self, title: str, total: int | None = None, unit: str = "") -> Iterator[_Counting]:
        yield self

    def advance(self, amount: int = 1, **shown: Any) -> None:
        self._done += amount
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _POLL_SECONDS
            self._counter.report.remote(self._index, self._done)
