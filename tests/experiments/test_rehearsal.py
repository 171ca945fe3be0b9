"""What only a built student can refuse is told before the teacher is trained, and costs no new folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

CHANGES: dict[str, Any] = {
    "schedule": {"tune_days": [4], "test_days": []},
    "students": EXPERIMENT["students"][:1],
    "floor": False,
    "seeds": [0],
}
WRONG = {
    "tap": {"ah": {"tap": "penulti"}},
    "weights": {"ah": {"task_weights": {"clik": 1}}},
    "width": {"sharing": {"dim": 16}},
    "wider": {"ah": {}, "sharing": {"dim": 16}},
}


def test_before_the_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_days(tmp_path / "mine", days=4, rows=150)
    write_experiment(tmp_path / "a", data, tmp_path / "cache", channels=WRONG, **CHANGES)
    assert main(["run", str(tmp_path / "a" / "tiny.yaml")]) == 2
    said = capsys.readouterr().err
    assert "distill: 4 problems" in said
    assert (
        "student 'small': channels.width: sharing.dim: got 16, allowed: 8, the width of 'user_id' in" in said
    )
    assert "student 'small': channels.wider: sharing.dim: got 16" in said
    assert "student 'small': channels.tap: ah.tap: got 'penulti', allowed: " in said
    assert "student 'small': channels.weights: ah.task_weights: got 'clik', allowed: click, order" in said
    assert not (tmp_path / "a" / "out" / "teacher").exists()

    settings = ["--set", "channels={ah: {ah: {}}}"]
    assert main(["teacher", str(tmp_path / "a" / "tiny.yaml"), *settings]) == 0
    other = ["--set", "teacher.options.mlp=[8]", "--set", "seeds=[1]"]
    assert main(["teacher", str(tmp_path / "a" / "tiny.yaml"), *settings, *other]) == 2
    assert "holds a run with other settings: teacher.options.mlp. Its teacher" in capsys.readouterr().err


def test_a_surface_without_rows_on_the_tune_days_is_told_before_the_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_days(tmp_path / "mine", days=4, rows=150, without=("reels", 4))
    write_experiment(tmp_path / "a", data, tmp_path / "cache", channels={"ah": {"ah": {}}}, **CHANGES)
    assert main(["run", str(tmp_path / "a" / "tiny.yaml")]) == 2
    told = "student 'small': vertical 'reels' has no rows to predict on the tune days [4]"
    assert f"1 problem\n  {told}" in capsys.readouterr().err
    assert not (tmp_path / "a" / "out" / "teacher").exists()


FORWARD = {
    "self.layer(batch.dense)": (1, "'Own' object has no attribute 'layer', student 'own' (--debug"),
    "Output(batch.dense[:, 0], {})": (
        2,
        "student 'own': Own.forward: logits: got [",
    ),
    "Output(batch.dense[:, [0, 0]], {})": (
        2,
        "student 'own': Own.forward: taps.penultimate: got nothing, allowed: [",
    ),
}


@pytest.mark.parametrize("returned", FORWARD)
def test_a_model_of_ones_own_is_called_before_the_teacher_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], returned: str
) -> None:
    data = write_days(tmp_path / "mine", days=4, rows=150)
    student = {
        "name": "own",
        "architecture": "own.py:Own",
        "verticals": ["feed"],
        "optimizer": {"batch_size": 50},
    }
    changes = CHANGES | {"students": [student], "channels": {"ah": {"ah": {}}}}
    write_experiment(tmp_path / "a", data, tmp_path / "cache", **changes)
    (tmp_path / "a" / "own.py").write_text(
        "import torch\n\nfrom distill.protocols import Output\n"
        "from students.base import Student\n\n\n"
        "class Own(Student):\n"
        "    def __init__(self, **common):\n"
        "        super().__init__(**common)\n"
        "        self.add_heads(3)\n"
        "        self.start = torch.rand(3)  # no generator of its own\n"
        "        self.tap_widths = {'penultimate': 3}\n\n"
        "    def forward(self, batch):\n"
        f"        return {returned}\n"
    )
    (code, message), state = FORWARD[returned], torch.get_rng_state()
    assert main(["run", str(tmp_path / "a" / "tiny.yaml")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a" / "out" / "teacher").exists()
    assert torch.equal(state, torch.get_rng_state()), "a rehearsal leaves no trace"
