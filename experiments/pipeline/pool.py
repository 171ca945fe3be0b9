"""Runs jobs side by side in processes of their own; progress is counted across them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from distill.progress import Progress

_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        function: a module-level function; called with its arguments and `progress`.
        arguments: picklable.
        examples: how many it reads, for the bar.
    """

    function: Callable[..., None]
    arguments: tuple[Any, ...]
    examples: int


def run_jobs(jobs: Sequence[Job], title: str, workers: int, progress: Progress) -> None:
    """Run every job; the first error cancels what has not started and is raised.

    Args:
        jobs: independent of each other.
        title: the bar's name.
        workers: processes; with 1, jobs run here one after the other.
        progress: shown to the user.
    """
    if not jobs:
        return
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            job.function(*job.arguments, progress=progress)
        return
    context = multiprocessing.get_context("forkserver")
    # Imports take seconds; the server does them once, and every process of every pool starts from there.
    multiprocessing.set_forkserver_preload(["experiments.pipeline.run"])
    counter = context.Value("q", 0)
    with (
        progress.task(title, total=sum(job.examples for job in jobs), unit="examples") as bar,
        ProcessPoolExecutor(min(workers, len(jobs)), context, _start, (counter,)) as pool,
    ):
        futures = [pool.submit(_call, job) for job in jobs]
        try:
            _watch(futures, counter, bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def default_workers() -> int:
    """One process per core: every process computes with few threads."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _watch(futures: Sequence[Future[None]], counter: Synchronized, bar: Any) -> None:
    shown, pending = 0, set(futures)
    while pending:
        done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        now = counter.value
        bar.advance(now - shown, jobs=f"{len(futures) - len(pending)}/{len(futures)}")
        shown = now


_counter: Synchronized | None = None


def _start(counter: Synchronized) -> None:
    global _counter
    _counter = counter


def _call(job: Job) -> None:
    job.function(*job.arguments, progress=_Counting())


class _Counting:
    """Progress of a worker: adds to the shared counter, shows nothing."""

    @contextmanager
    def task(self, title: str, total: int | None = None, unit: str = "") -> Iterator[_Counting]:
        yield self

    def advance(self, amount: int, **shown: object) -> None:
        assert _counter is not None
        with _counter.get_lock():
            _counter.value += amount
