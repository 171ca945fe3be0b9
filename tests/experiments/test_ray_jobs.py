"""Jobs on Ray: a lost worker changes no result, an error says which, and machines that differ are refused."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from distill.errors import DataError, UserError
from distill.load_config import load_config
from distill.predictions import prediction_path
from distill.progress import NoProgress, PlainProgress
from experiments.__main__ import main
from experiments.pipeline import ray_jobs
from experiments.pipeline.environment import versions
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.pool import Job, jobs_on, run_jobs
from experiments.pipeline.ray_jobs import ATTEMPTS, RayRunner
from experiments.pipeline.run import open_experiment
from experiments.pipeline.work import train_student_job
from tests.experiments import ray_functions
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def runner() -> Iterator[RayRunner]:
    """Ray on this machine, started once; its workers as important as the other processes of the tests."""
    with pytest.MonkeyPatch.context() as patch, RayRunner(None) as runner:
        patch.setenv("RAY_worker_niceness", "0")
        yield runner


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Opened, with nothing trained."""
    import experiments.catalog  # noqa: F401  fills the registries

    root = tmp_path_factory.mktemp("ray")
    data = write_days(root / "data", rows=120)
    file = write_experiment(root / "experiment", data, root / "cache", seeds=[0])
    return open_experiment(load_config(str(file), []), False, NoProgress())


def test_lost_cell_runs_again_elsewhere_with_the_result_of_a_local_run(
    tmp_path: Path, runner: RayRunner, experiment: Experiment
) -> None:
    cell = next(cell for cell in experiment.student_cells if cell.channel == "none")
    train_student_job(experiment, cell, 0, progress=NoProgress())
    local = pq.read_table(prediction_path(experiment.folder, cell, 0))

    far = replace(experiment, config=replace(experiment.config, output=str(tmp_path / "out")))
    arguments = (tmp_path, train_student_job, far, cell, 0)
    lines = io.StringIO()
    with jobs_on(runner):
        jobs = [Job(ray_functions.lost_once, arguments, 360, (far.folder,))]
        run_jobs(jobs, "students", 2, PlainProgress(lines))

    assert pq.read_table(prediction_path(far.folder, cell, 0)).equals(local)
    here, lost, done = str(os.getpid()), *((tmp_path / name).read_text() for name in ("lost", "done"))
    assert len({here, lost, done}) == 3
    last = lines.getvalue().splitlines()[-1]
    assert last.startswith("students: 360 examples in") and last.endswith("jobs 1/1, lost 1")
    assert [path.name for path in far.folder.iterdir() if path.name.startswith(".ray")] == []


def test_run_on_ray_leaves_what_a_local_run_leaves(tmp_path: Path, runner: RayRunner) -> None:
    data = write_days(tmp_path / "data", rows=120)
    student = EXPERIMENT["students"][0] | {"verticals": ["feed"], "channels": ["none"]}
    changes: dict[str, Any] = {
        "teacher": None,
        "channels": {"none": {}},
        "students": [student],
        "floor": False,
    }
    found = []
    for name, where in (("local", []), ("far", ["--on", "ray"])):
        file = write_experiment(tmp_path / name, data, tmp_path / "cache", **changes)
        assert main(["run", str(file), *where]) == 0
        folder = tmp_path / name / "out" / "predictions"
        found.append({path.name: pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))})
    assert list(found[0]) == ["0.parquet", "1.parquet"] and found[1] == found[0]


def test_job_that_is_lost_every_time_is_given_up(tmp_path: Path, runner: RayRunner) -> None:
    with pytest.raises(RuntimeError, match=f"^a job was lost {ATTEMPTS} times"):
        runner([Job(ray_functions.lost_always, (tmp_path,), 0)], "students", 2, NoProgress())
    assert (tmp_path / "attempts").read_text() == "x" * ATTEMPTS


def test_error_of_a_job_keeps_its_type_and_message_and_is_not_tried_again(
    tmp_path: Path, runner: RayRunner
) -> None:
    with pytest.raises(DataError, match="^feed: the label is 7$"):
        runner([Job(ray_functions.refuse, ("feed",), 0)], "students", 2, NoProgress())


def test_interrupt_stops_a_job_under_way_and_leaves_no_half_file(tmp_path: Path, runner: RayRunner) -> None:
    def press() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        runner([Job(ray_functions.write_slowly, (tmp_path,), 0)], "students", 2, NoProgress())
    thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_sigterm_is_left_to_the_caller(tmp_path: Path, runner: RayRunner) -> None:
    runner([Job(ray_functions.write, (tmp_path / "a",), 0)], "students", 2, NoProgress())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def place(tmp_path: Path, **changes: object) -> ray_jobs._Place:
    mark = tmp_path / "out" / ".ray-1"
    mark.parent.mkdir()
    mark.touch()
    return replace(ray_jobs._Place(tmp_path, (mark,), versions()), **changes)  # type: ignore[arg-type]


def test_machine_that_does_not_share_the_run_folder_is_refused(tmp_path: Path) -> None:
    other = place(tmp_path, marks=(tmp_path / "elsewhere" / ".ray-1",))
    with pytest.raises(UserError, match=f"does not see the folder {tmp_path}/elsewhere of the machine"):
        other.enter()


def test_machine_that_does_not_share_the_working_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"does not see the folder {tmp_path}/home of the machine"):
        place(tmp_path, working=tmp_path / "home").enter()


def test_machine_with_another_version_is_refused(tmp_path: Path) -> None:
    other = place(tmp_path, versions=versions() | {"torch": "1.0"})
    with pytest.raises(UserError, match=r"torch: got version \S+, allowed: 1\.0, as on"):
        other.enter()


@pytest.mark.parametrize("where", ["processes", "ray:", "rayon", ""])
def test_other_engine_is_refused(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "experiment.yaml", "--on", where]) == 2
    assert f"got '{where}', allowed: ray, or ray:ADDRESS" in capsys.readouterr().err


def test_without_ray_the_option_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_jobs, "find_spec", lambda name: None)
    assert main(["run", str(tmp_path / "experiment.yaml"), "--on", "ray"]) == 2
    assert "pip install 'gem-distill[ray]'" in capsys.readouterr().err
