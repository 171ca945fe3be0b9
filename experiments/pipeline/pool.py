"""Runs jobs side by side in processes of their own, or where else `jobs_on` says; progress is counted across them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from distill.progress import Progress, Task
from experiments.pipeline.board import Board, BoardRows, SlotProgress

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 10


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        function: a module-level function; called with its arguments and `progress`.
        arguments: picklable.
        examples: how many it reads, for the bar.
        folders: where it leaves its results for other jobs to read.
        threads: it computes with.
    """

    function: Callable[..., None]
    arguments: tuple[Any, ...]
    examples: int
    folders: tuple[Path, ...] = ()
    threads: int = 1


Runner = Callable[[Sequence[Job], str, int, Progress], None]
"""What takes the place of `run_in_processes`; the arguments are the same."""


@contextmanager
def jobs_on(runner: Runner) -> Iterator[None]:
    """Inside, `run_jobs` hands its jobs to this runner."""
    before = _runner.set(runner)
    try:
        yield
    finally:
        _runner.reset(before)


def run_jobs(jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
    """Run every job: in processes of this machine, unless `jobs_on` says otherwise. See `run_in_processes`."""
    if jobs:
        _runner.get()(jobs, title, workers, progress)


def run_in_processes(jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
    """Run every job on this machine.

    Args:
        jobs: independent of each other; at least one.
        title: the bar's name.
        workers: processes; with 1, jobs run here one after the other.
        progress: shown to the user.

    Raises:
        Exception: the first error of a job; nothing more is started then, what is under way ends and is kept.
        KeyboardInterrupt: after the jobs under way were stopped.
    """
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            job.function(*job.arguments, progress=progress)
        return
    run_in_pool(jobs, title, workers, progress)


def run_in_pool(jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
    """As `run_in_processes`, but never in this process."""
    context = multiprocessing.get_context("forkserver")
    _start_server()
    processes = min(workers, len(jobs))
    board = Board(context, processes)
    pool = ProcessPoolExecutor(processes, context, _start, (board,))
    total = sum(job.examples for job in jobs)
    with progress.task(title, total, "examples") as bar, BoardRows(board, progress) as rows, _ending(pool):
        _hand_out(jobs, pool, processes, board, bar, rows)


_runner: ContextVar[Runner] = ContextVar("runner", default=run_in_processes)


def default_workers() -> int:
    """One process per core: every process computes with few threads."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _start_server() -> None:
    """Imports take seconds; the server does them once, and every process of every pool starts from there.

    It and its processes leave Ctrl-C to this one, which knows what is to be done.
    """
    multiprocessing.set_forkserver_preload(["experiments.pipeline.run"])
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _ending(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Leave no process behind, whatever happens inside."""
    others = multiprocessing.active_children()
    try:
        try:
            yield
        except Exception:
            pool.shutdown()
            raise
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown()


def _hand_out(
    jobs: Sequence[Job],
    pool: ProcessPoolExecutor,
    workers: int,
    board: Board,
    bar: Task,
    rows: BoardRows,
) -> None:
    """Keep every process busy. A job is handed out when a process is free for it, so that none waits in the pool, where
    an error would not cancel it."""
    shown, waiting, pending = 0, deque(jobs), set[Future[None]]()
    while waiting or pending:
        while waiting and len(pending) < workers:
            pending.add(pool.submit(_call, waiting.popleft()))
        done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        rows.look()
        now = board.counted
        bar.advance(now - shown, jobs=f"{len(jobs) - len(waiting) - len(pending)}/{len(jobs)}")
        shown = now


class _Worker:
    """State of a process of the pool."""

    progress: SlotProgress
    busy = False
    stopped = False


def _start(board: Board) -> None:
    _Worker.progress = board.take()
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Stop with the process that wants the results, even one that was killed and could not say so."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    given_up = time.monotonic() + _GRACE_SECONDS
    while _Worker.busy and time.monotonic() < given_up:  # a job under way removes its half files
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _stop(*unused: object) -> None:
    """Leave the job by an exception, so that it removes its half files; take no other one."""
    first, _Worker.stopped = not _Worker.stopped, True
    if first and _Worker.busy:
        raise KeyboardInterrupt


def _call(job: Job) -> None:
    _Worker.busy = True
    try:
        if not _Worker.stopped:
            job.function(*job.arguments, progress=_Worker.progress)
    finally:
        _Worker.busy = False
