"""`distill run --resume`: goes on with a run, begins none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main
from tests.experiments.tiny_experiment import write_days, write_experiment

CHANGES: dict[str, Any] = {
    "schedule": {"tune_days": [4], "test_days": []},
    "students": [],
    "floor": False,
    "seeds": [0],
}


def test_nothing_to_go_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_days(tmp_path / "mine", days=4, rows=150)
    config = write_experiment(tmp_path / "a", data, tmp_path / "cache", **CHANGES)
    assert main(["run", "--resume", str(config)]) == 2
    assert f"--resume: got the output {tmp_path / 'a' / 'out'}, which holds no run" in capsys.readouterr().err
    assert not (tmp_path / "a" / "out").exists()


def test_goes_on_and_may_be_saved_more_often(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_days(tmp_path / "mine", days=4, rows=150)
    config = write_experiment(tmp_path / "a", data, tmp_path / "cache", **CHANGES)
    assert main(["teacher", str(config)]) == 0
    model = next((tmp_path / "a" / "out" / "checkpoints").glob("*/0/model.safetensors"))
    before = model.stat().st_mtime_ns
    assert main(["run", "--resume", str(config), "--set", "checkpoint.every_batches=5"]) == 0
    assert model.stat().st_mtime_ns == before
    assert main(["run", "--resume", str(config), "--set", "teacher.optimizer.batch_size=7"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
