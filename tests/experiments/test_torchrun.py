"""The user's way to several processes, which train the teacher as one and share the students: `torchrun -m experiments
run`."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

import experiments.catalog  # noqa: F401  fills the registries
from distill.cells import read_cells
from distill.load_config import load_config
from distill.progress import NoProgress
from experiments.__main__ import main
from experiments.benchmarks.victims import content
from experiments.pipeline import torchrun
from experiments.pipeline.banks import Task
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.jobs import is_done
from experiments.pipeline.pool import run_in_processes
from experiments.pipeline.run import open_experiment
from experiments.pipeline.torchrun import Meeting
from experiments.tracking import RUNS
from tests.experiments.processes import SECONDS, wait_until_nobody_is_left
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment
from tests.forked import context

PROJECT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


STUDENT = """
from students.base import Student

class Linear(Student):
    def __init__(self, **common):
        {before}
        super().__init__(**common)
        self.add_heads(self.input_width)

    def forward(self, batch):
        fields = self.fields(batch)
        return self.output(fields, self.flat_input(fields, batch))
"""


def write_student(folder: Path, before: str) -> str:
    """The architecture of a linear model that first does something else."""
    (folder / "linear.py").write_text(STUDENT.replace("{before}", before.strip()))
    return str(folder / "linear.py:Linear")


def changes() -> dict[str, Any]:
    """The tiny experiment with one seed, a domain teacher and a student of it, whose two cells are dealt out; units
    dropped are others in every process, so none are."""
    student = EXPERIMENT["students"][0] | {"verticals": ["feed"], "channels": ["none", "ah"]}
    domain = {key: student[key] for key in ("architecture", "verticals", "options", "optimizer")}
    teacher = copy.deepcopy(EXPERIMENT["teacher"])
    teacher["options"]["dropout"] = 0.0
    teacher["representation"] = {"taps": ["user", "penultimate"], "dim": 4, "codec": "fp16"}
    sharding = {"tables": "table_wise", "kinds": {"item_id": "data_parallel"}, "dense": "fsdp2"}
    return {
        "seeds": [0],
        "students": [student | {"route": "hierarchical"}],
        "domain_teachers": [domain | {"name": "apps", "channel": "ah"}],
        "floor": False,
        "teacher": teacher,
        "sharding": sharding,
    }


def together(file: Path) -> subprocess.CompletedProcess[str]:
    """What two processes say."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [*TORCHRUN, "-m", "experiments", "run", str(file)]
    return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=200)


def test_two_processes_leave_what_one_leaves(tmp_path: Path) -> None:
    data = write_days(tmp_path / "data", rows=305)
    alone = write_experiment(tmp_path / "alone", data, tmp_path / "cache", **changes())
    assert main(["run", str(alone)]) == 0
    shared = write_experiment(tmp_path / "shared", data, tmp_path / "cache", **changes())
    done = together(shared)
    assert done.returncode == 0, done.stderr

    names = [
        sorted(
            path.relative_to(file.parent / "out")
            for path in (file.parent / "out").rglob("*")
            if path.is_file()
        )
        for file in (alone, shared)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        if name.suffix == ".parquet":
            same_rows(alone.parent / "out" / name, shared.parent / "out" / name)
    assert done.stdout.count("Report: ") == 1
    same_by_one(shared)


def same_by_one(file: Path) -> None:
    """One process makes of the teacher's log, bit for bit, the students and domain teachers that two have shared."""
    out = file.parent / "out"
    left = content(out)
    (teacher,) = (cell for cell in read_cells(out / "cells.csv") if cell.role == "teacher")
    for made in (*out.glob("checkpoints/*"), *out.glob("predictions/*"), out / "domain_teachers"):
        if made.name != teacher.cell_id:
            shutil.rmtree(made)
    assert main(["run", str(file)]) == 0
    assert content(out) == left


def students_of(file: Path) -> tuple[Experiment, list[Task]]:
    """The experiment of a file, and what is trained of students in it."""
    experiment = open_experiment(load_config(file), False, NoProgress())
    return experiment, [Task(experiment, cell, 0) for cell in experiment.student_cells]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.Store:
    """Where two processes meet that are this one in turn; the first finds that the second has trained its share."""
    store = dist.HashStore()
    store.set("done/0/1", "")
    monkeypatch.setattr(Meeting, "store", lambda self: store)
    monkeypatch.setattr(torchrun, "run_in_pool", run_in_processes)
    return store


@pytest.fixture(scope="module")
def no_teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two cells: a student on two surfaces that has nobody to learn from."""
    folder = tmp_path_factory.mktemp("data")
    data = write_days(folder / "data", rows=60)
    settings: dict[str, Any] = {"seeds": [0], "teacher": None, "channels": {}, "floor": False, "workers": 2}
    return settings | {"data": data, "cache": folder / "cache", "students": [EXPERIMENT["students"][0]]}


def run_as(rank: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """What torchrun would get of one of two processes."""
    environment = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    return main(["run", str(file), "--quiet"])


def test_each_process_trains_its_share_and_a_second_start_goes_on_with_the_same_wandb_runs(
    tmp_path: Path, no_teacher: dict[str, Any], store: dist.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    file = write_experiment(tmp_path / "run", **no_teacher, wandb={"enabled": True})
    experiment, tasks = students_of(file)
    run_as(0, file, monkeypatch)
    assert [is_done(experiment, task.cell, 0) for task in tasks] == [True, False]
    begun = run_ids(experiment.folder)
    store.delete_key("done/0/1")
    assert run_as(1, file, monkeypatch) == 0
    assert [is_done(experiment, task.cell, 0) for task in tasks] == [True, True]
    assert store.check(["done/0/1"])
    assert run_as(0, file, monkeypatch) == 0
    assert run_ids(experiment.folder) == begun and len(begun) == 2
    assert recorded_ids(experiment.folder) == set(begun.values())


def run_ids(run: Path) -> dict[str, str]:
    """Cells to their W&B runs."""
    return {cell_id: of_cell["id"] for cell_id, of_cell in json.loads((run / RUNS).read_text()).items()}


def recorded_ids(run: Path) -> set[str]:
    """Of the W&B runs that lie in a folder."""
    return {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")}


def test_a_process_whose_share_fails_says_so_and_never_that_it_is_done(
    tmp_path: Path,
    no_teacher: dict[str, Any],
    store: dist.Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    student = no_teacher["students"][0] | {"architecture": write_student(tmp_path, NO_MEMORY), "options": {}}
    file = write_experiment(tmp_path / "run", **no_teacher | {"students": [student]})
    _, tasks = students_of(file)
    store.delete_key("done/0/1")
    trainings = [[(task.cell.cell_id, task.seed)] for task in tasks]
    store.set("call/0", json.dumps(["deal", trainings]))
    assert run_as(1, file, monkeypatch) == 2
    assert "distill: students.small: no memory" in capsys.readouterr().err
    assert not store.check(["done/0/1"])


def test_a_process_that_is_told_to_stop_first_stops_those_it_has_started(
    tmp_path: Path, no_teacher: dict[str, Any], store: dist.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []

    def told(*unused: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:  # by which a pool ends its processes, and waits for them
            left.append(signal.SIGTERM)
            raise

    monkeypatch.setattr(torchrun, "run_in_pool", told)
    file = write_experiment(tmp_path / "run", **no_teacher)
    _, tasks = students_of(file)
    store.set("call/0", json.dumps(["deal", [[(task.cell.cell_id, task.seed)] for task in tasks]]))
    before = signal.getsignal(signal.SIGTERM)
    assert run_as(1, file, monkeypatch) == 1
    assert left == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is before


def test_sigterm_ends_at_once_who_waits_for_the_others_in_the_teachers_training(
    tmp_path: Path, store: dist.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the training listens: in C++ code nobody would hear an interrupt."""
    found: list[Any] = []
    monkeypatch.setattr(
        torchrun, "_train_together", lambda *unused: found.append(signal.getsignal(signal.SIGTERM))
    )
    file = write_experiment(tmp_path / "run", write_days(tmp_path / "data", rows=60), tmp_path / "cache")
    experiment = open_experiment(load_config(file), False, NoProgress())
    assert experiment.teacher_cell is not None
    store.set("call/0", json.dumps(["together", [[(experiment.teacher_cell.cell_id, 0)]]]))
    store.set("call/1", json.dumps(["end", []]))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert run_as(1, file, monkeypatch) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [signal.SIG_DFL]


NO_MEMORY = """
        from distill.errors import UserError
        raise UserError("students.small: no memory")
"""
FAILS = """
        import torch.distributed as dist
        from distill.errors import UserError
        if dist.is_initialized() and dist.get_world_size() > 1 and dist.get_rank() == 1:
            raise UserError("plan: got no memory for table item_id")
"""


def test_what_fails_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    data = write_days(tmp_path / "data", rows=60)
    teacher = {"architecture": write_student(tmp_path, FAILS), "optimizer": {"batch_size": 20}}
    settings = changes() | {"teacher": teacher, "students": [], "domain_teachers": [], "sharding": {}}
    done = together(write_experiment(tmp_path / "shared", data, tmp_path / "cache", **settings))
    assert done.returncode == 1  # torchrun's own, when one of its processes failed
    assert "distill: plan: got no memory for table item_id" in done.stderr
    assert "Report: " not in done.stdout


def watched(ready: Path) -> None:
    """Be the parent of a process that stops with it."""
    os.setsid()
    if os.fork() == 0:
        torchrun.stop_with_torchrun()
        ready.touch()
    time.sleep(SECONDS)


def test_processes_of_a_torchrun_that_was_killed_stop(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    parent = context().Process(target=watched, args=(ready,))
    parent.start()
    assert parent.pid is not None
    while not ready.exists():
        assert parent.is_alive()
        time.sleep(0.005)
    parent.kill()
    wait_until_nobody_is_left(parent.pid)


def same_rows(one: Path, other: Path) -> None:
    """The same ids in the same order, each once; numbers within the tolerance."""
    found, expected = pq.read_table(other).to_pydict(), pq.read_table(one).to_pydict()
    assert found.keys() == expected.keys()
    ids = found["example_id"]
    assert ids == expected["example_id"] and len(set(ids)) == len(ids)
    for name, values in expected.items():
        if name.startswith("logit_"):
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5, err_msg=f"{one} {name}")
        elif name == "representation":  # float16, whose steps are half a thousandth near 1
            got, wanted = (np.frombuffer(b"".join(rows), np.float16) for rows in (found[name], values))
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-3)
        else:
            assert found[name] == values, name


def test_ray_under_torchrun_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert main(["run", str(tmp_path / "experiment.yaml"), "--on", "ray"]) == 2
    assert "--on: got ray under torchrun, allowed: one of them" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["teacher", "validate"])
def test_other_verbs_are_refused(
    verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([verb, str(tmp_path / "experiment.yaml")]) == 2
    assert f"got 2 processes of torchrun with `distill {verb}`, allowed: with `distill run` alone" in (
        capsys.readouterr().err
    )
