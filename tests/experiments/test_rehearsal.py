"""What only a built student can refuse is told before the teacher is trained, and costs no new folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

CHANGES: dict[str, Any] = {
    "schedule": {"tune_days": [4], "test_days": []},
    "students": EXPERIMENT["students"][:1],
    "floor": False,
    "seeds": [0],
}
WRONG = {"tap": {"ah": {"tap": "penulti"}}, "weights": {"ah": {"task_weights": {"clik": 1}}}}


def test_before_the_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_days(tmp_path / "mine", days=4, rows=150)
    write_experiment(tmp_path / "a", data, tmp_path / "cache", channels=WRONG, **CHANGES)
    assert main(["run", str(tmp_path / "a" / "tiny.yaml")]) == 2
    said = capsys.readouterr().err
    assert "distill: 2 problems" in said
    assert "student 'small': channels.tap: ah.tap: got 'penulti', allowed: " in said
    assert "student 'small': channels.weights: ah.task_weights: got 'clik', allowed: click, order" in said
    assert not (tmp_path / "a" / "out" / "teacher").exists()

    settings = ["--set", "channels={ah: {ah: {}}}"]
    assert main(["teacher", str(tmp_path / "a" / "tiny.yaml"), *settings]) == 0
    other = ["--set", "teacher.options.mlp=[8]", "--set", "seeds=[1]"]
    assert main(["teacher", str(tmp_path / "a" / "tiny.yaml"), *settings, *other]) == 2
    assert "holds a run with other settings: teacher.options.mlp. Its teacher" in capsys.readouterr().err
