"""The user's way to a teacher trained by several processes: `torchrun -m experiments run`."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

PROJECT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def changes() -> dict[str, Any]:
    """The tiny experiment with one seed and one student; units dropped are others in every process, so none are."""
    student = EXPERIMENT["students"][0] | {"verticals": ["feed"], "channels": ["none", "ah"]}
    teacher = copy.deepcopy(EXPERIMENT["teacher"])
    teacher["options"]["dropout"] = 0.0
    teacher["representation"] = {"taps": ["user", "penultimate"], "dim": 4, "codec": "fp16"}
    sharding = {"tables": "table_wise", "kinds": {"item_id": "data_parallel"}, "dense": "fsdp2"}
    return {"seeds": [0], "students": [student], "floor": False, "teacher": teacher, "sharding": sharding}


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


FAILING = """
import torch.distributed as dist
from distill.errors import UserError
from students.base import Student

class Failing(Student):
    def __init__(self, **common):
        if dist.is_initialized() and dist.get_world_size() > 1 and dist.get_rank() == 1:
            raise UserError("plan: got no memory for table item_id")
        super().__init__(**common)
        self.add_heads(self.input_width)

    def forward(self, batch):
        fields = self.fields(batch)
        return self.output(fields, self.flat_input(fields, batch))
"""


def test_what_fails_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    data = write_days(tmp_path / "data", rows=60)
    (tmp_path / "failing.py").write_text(FAILING)
    teacher = {"architecture": str(tmp_path / "failing.py:Failing"), "optimizer": {"batch_size": 20}}
    settings = changes() | {"teacher": teacher, "students": [], "sharding": {}}
    done = together(write_experiment(tmp_path / "shared", data, tmp_path / "cache", **settings))
    assert done.returncode == 1  # torchrun's own, when one of its processes failed
    assert "distill: plan: got no memory for table item_id" in done.stderr
    assert "Report: " not in done.stdout


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
