"""Ctrl-C on a real `distill run`: a readable folder, no process left, and a later run that ends the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from experiments.__main__ import main
from experiments.pipeline.status import RunStatus
from experiments.recorded import read_run
from tests.experiments.processes import SECONDS, Forked, Running, wait_for, wait_until_nobody_is_left
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("data") / "mine", days=4, rows=150)


def slow(folder: Path, data: Path, workers: int) -> Path:
    """An experiment whose teacher takes many small steps."""
    return write_experiment(
        folder,
        data,
        folder.parent / "cache",
        teacher__optimizer={"batch_size": 2},
        students=[EXPERIMENT["students"][0] | {"verticals": ["feed"], "channels": ["ah"]}],
        schedule={"tune_days": [4], "test_days": []},
        floor=False,
        workers=workers,
    )


def real(config: Path, folder: Path) -> subprocess.Popen[str]:
    """`distill run` as a shell starts it, in a session of its own."""
    command = [sys.executable, "-m", "experiments", "run", str(config)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def forked(config: Path, folder: Path) -> Forked:
    return Forked(["run", str(config)], folder)


@pytest.mark.parametrize(("workers", "start"), [(1, forked), (2, real)])
def test_interrupted_run_is_readable_and_can_be_finished(
    data: Path,
    tmp_path: Path,
    workers: int,
    start: Callable[[Path, Path], Running],
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = slow(tmp_path / "a", data, workers)
    out = tmp_path / "a" / "out"
    process = start(config, tmp_path / "printed")
    snapshot = out / "teacher" / "0" / "snapshots" / "day-0001.safetensors"
    wait_for(snapshot.exists, process, "the first snapshot")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the job
    printed, messages = process.communicate(timeout=SECONDS)

    assert process.poll() == 1
    said = messages.splitlines()[-1]
    assert said.startswith(f"distill: interrupted. What is finished is kept in {out}, ")
    assert said.endswith(f"To go on: distill run {config}") and "Traceback" not in messages + printed
    wait_until_nobody_is_left(process.pid)
    run = read_run(out)
    assert (run.status["state"], run.status["step"]) == ("interrupted", "teacher")
    assert not run.complete and not list(tmp_path.rglob("*.partial*"))
    everything_is_readable(out)

    assert main(["run", str(config)]) == 0
    assert json.loads((out / "status.json").read_text())["state"] == "done"
    assert read_run(out).complete
    only_progress_and_results(*capfd.readouterr())


def everything_is_readable(out: Path) -> None:
    for path in filter(Path.is_file, out.rglob("*")):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                assert [file.get_tensor(name) for name in file.keys()]


def only_progress_and_results(printed: str, messages: str) -> None:
    """Neither Lightning nor torchrec nor W&B has a word in it."""
    lines = printed.splitlines()
    judged = [line for line in lines if line.startswith(("ok     ", "BROKEN "))]
    summary = lines[len(judged) :]
    assert lines[: len(judged)] == judged and len(summary) <= 10
    assert summary[0].startswith("tiny: ") and summary[-1].startswith("Report: ")
    titles = ("write parquet", "gem all", "teacher", "small feed", "students", "scores", "W&B runs")
    assert [line for line in messages.splitlines() if not line.startswith(titles)] == []


def test_interrupt_while_students_train_keeps_what_is_done(data: Path, tmp_path: Path) -> None:
    student = EXPERIMENT["students"][0] | {"channels": ["ah"], "optimizer": {"batch_size": 2}}
    days = {"tune_days": [4], "test_days": []}
    config = write_experiment(
        tmp_path / "a", data, tmp_path / "cache", students=[student], schedule=days, floor=False, seeds=[0]
    )
    out = tmp_path / "a" / "out"

    def reports() -> list[Path]:
        return list(out.glob("checkpoints/*/0/report.json"))

    process = forked(config, tmp_path / "printed")
    wait_for(lambda: len(reports()) >= 3, process, "a second student's report")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert process.poll() == 1
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["step"]) == ("interrupted", "student")
    kept = {path: path.stat().st_mtime_ns for report in reports() for path in report.parent.iterdir()}
    assert 3 <= len(reports()) < 5, "the teacher, and two of four students"
    assert main(["run", str(config)]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and read_run(out).complete


def test_sigterm_interrupts_as_ctrl_c_does(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), RunStatus(tmp_path, "hash", None) as step:
        step("teacher")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"]) == ("interrupted", "teacher")
    assert signal.getsignal(signal.SIGTERM) is before
