"""Jobs in processes of their own: all of them, or an error that says which, or an interrupt that leaves nothing."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from distill.errors import DataError
from distill.progress import PlainProgress
from experiments.pipeline.pool import Job, run_jobs
from tests.experiments import pool_jobs

PROJECT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_runs_and_is_counted(tmp_path: Path, workers: int) -> None:
    jobs = [Job(pool_jobs.write, (tmp_path / str(n), 10), 10) for n in range(5)]
    lines = io.StringIO()
    run_jobs(jobs, "students", workers, PlainProgress(lines))
    assert names(tmp_path) == ["0", "1", "2", "3", "4"]
    if workers == 2:
        last = lines.getvalue().splitlines()[-1]
        assert last.startswith("students: 50 examples in") and last.endswith("jobs 5/5")


def test_several_jobs_are_shown_at_once(tmp_path: Path) -> None:
    """Each with what it has done and its NE; the jobs end when both have been seen."""

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            written = super().write(text)
            if all(f"student {name}: 10 of 40 examples" in self.getvalue() for name in "ab"):
                (tmp_path / "end").touch()
            return written

    lines = Watched()
    jobs = [Job(pool_jobs.train, (tmp_path, name), 40) for name in "ab"]
    run_jobs(jobs, "students", 2, PlainProgress(lines, seconds=0.02))
    shown = [line for line in lines.getvalue().splitlines() if line.startswith("student ")]
    assert all("(25 %)" in line and line.endswith("NE 0.5") for line in shown)
    assert lines.getvalue().splitlines()[-1].startswith("students: 20 examples in")


def test_one_job_runs_here(tmp_path: Path) -> None:
    lines = io.StringIO()
    run_jobs([Job(pool_jobs.write, (tmp_path / "a", 10), 10)], "students", 2, PlainProgress(lines))
    assert lines.getvalue().startswith("write:")


def test_no_job_shows_no_bar() -> None:
    lines = io.StringIO()
    run_jobs([], "students", 2, PlainProgress(lines))
    assert lines.getvalue() == ""


def test_error_of_a_worker_keeps_its_type_and_message_and_cancels_the_rest(tmp_path: Path) -> None:
    """What is under way ends and is kept."""
    jobs = [Job(pool_jobs.refuse, (tmp_path,), 0), Job(pool_jobs.write_slowly, (tmp_path, 1.0), 0)]
    jobs += [Job(pool_jobs.write, (tmp_path / f"later-{n}", 0), 0) for n in range(4)]
    with pytest.raises(DataError, match=f"^{tmp_path.name}: the label is 7$"):
        run_jobs(jobs, "students", 2, PlainProgress(io.StringIO()))
    assert names(tmp_path) == ["begun", "slow"]
    assert multiprocessing.active_children() == []


def press_ctrl_c_when(*paths: Path) -> threading.Thread:
    """Once all of these exist."""

    def wait() -> None:
        while not all(path.exists() for path in paths):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_interrupt_stops_the_jobs_under_way_and_leaves_no_half_file(tmp_path: Path) -> None:
    folders = [tmp_path / str(n) for n in range(4)]
    for folder in folders:
        folder.mkdir()
    thread = press_ctrl_c_when(folders[0] / "begun", folders[1] / "begun")
    lines = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            [Job(pool_jobs.write_slowly, (folder, 120.0), 0) for folder in folders],
            "students",
            2,
            PlainProgress(lines),
        )
    thread.join()
    assert [names(folder) for folder in folders] == [["begun"], ["begun"], [], []]
    assert multiprocessing.active_children() == []
    assert "students: stopped" in lines.getvalue()


def test_worker_that_is_killed_is_noticed() -> None:
    with pytest.raises(BrokenProcessPool):
        run_jobs([Job(pool_jobs.die, (), 0)] * 2, "students", 2, PlainProgress(io.StringIO()))
    assert multiprocessing.active_children() == []


def test_workers_of_a_killed_process_stop(tmp_path: Path) -> None:
    """Nobody can tell them; they notice. The imports of a training are left out."""
    code = (
        "import io, multiprocessing, sys; from pathlib import Path; from distill.progress import PlainProgress\n"
        "from experiments.pipeline.pool import Job, run_jobs; from tests.experiments import pool_jobs\n"
        "multiprocessing.set_forkserver_preload = lambda modules: None\n"
        "jobs = [Job(pool_jobs.tell_and_wait, (Path(sys.argv[1]) / str(n),), 0) for n in range(2)]\n"
        "run_jobs(jobs, 'students', 2, PlainProgress(io.StringIO()))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT) as parent:
        workers = [_told(tmp_path / str(n)) for n in range(2)]
        parent.kill()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def _told(path: Path) -> int:
    """The process id that a worker wrote."""
    end = time.monotonic() + 120
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return int(path.read_text())
