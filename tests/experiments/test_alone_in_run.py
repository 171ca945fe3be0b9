"""Two commands on one run folder, and what a killed one has left running: one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

import experiments.catalog  # noqa: F401  fills the registries
from distill.alone import alone
from distill.load_config import load_config
from distill.progress import NoProgress
from experiments.__main__ import main
from experiments.pipeline.experiment import Experiment
from experiments.pipeline.run import open_experiment
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has a teacher."""
    folder = tmp_path_factory.mktemp("trained")
    file = write_experiment(
        folder / "a",
        write_days(folder / "data", days=4, rows=60),
        folder / "cache",
        students=[EXPERIMENT["students"][0] | {"verticals": ["feed"], "channels": ["none", "ah"]}],
        schedule={"tune_days": [4], "test_days": []},
        floor=False,
        seeds=[0],
    )
    assert main(["teacher", str(file), "--quiet"]) == 0
    return file


@pytest.fixture
def experiment(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr("distill.alone.PATIENCE", 0.0)
    return open_experiment(load_config(trained), False, NoProgress())


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_second_command_is_refused_and_touches_nothing(
    trained: Path, experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(experiment.folder / ".locks" / "run", "another", NoProgress()):
        before = files(experiment.folder)
        assert main(["log", str(trained)]) == 2
        assert files(experiment.folder) == before
    said = capsys.readouterr().err
    assert f"distill: output: {experiment.folder}: got process " in said and "one at a time" in said


@pytest.mark.parametrize("bank", [1, 2])
def test_model_that_is_still_trained_elsewhere_is_not_trained_twice(
    trained: Path, experiment: Experiment, bank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", str(trained), "--quiet"]) == 0
    cell = list(experiment.student_cells)[-1]
    with alone(experiment.lock(cell, 0), "another", NoProgress()):
        assert main(["student", str(trained), "--quiet", "--set", f"bank={bank}"]) == 2
    assert f"{experiment.folder}, small feed {cell.channel} seed 0: got process " in capsys.readouterr().err
    assert not (experiment.checkpoint_folder(cell, 0) / "report.json").exists()


def test_log_that_is_still_written_elsewhere_is_not_written_twice(
    trained: Path, experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment.teacher_cell is not None
    for path in experiment.log_folder(experiment.teacher_cell, 0).glob("*.parquet"):
        path.unlink()
    with alone(experiment.lock(experiment.teacher_cell, 0), "another", NoProgress()):
        assert main(["log", str(trained), "--quiet"]) == 2
    assert f"{experiment.folder}, gem all none seed 0: got process " in capsys.readouterr().err
