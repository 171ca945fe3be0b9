"""Parameter sharing through the real command: whose snapshot of which day, and teachers from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.cells import read_cells
from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

CHANGES: dict[str, Any] = {
    "seeds": [0],
    "floor": False,
    "channels": {"sharing": {"sharing": {"dim": 8}, "ah": {}}},
    "students": [EXPERIMENT["students"][0] | {"verticals": ["feed"]}],
    "schedule": {"tune_days": [4, 5], "test_days": []},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("data") / "mine", days=5, rows=300)


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main(["run", str(write_experiment(folder / "a", data, folder / "cache", **CHANGES))]) == 0
    return folder / "a" / "out"


def folder_of(out: Path, channel: str) -> Path:
    (cell,) = [c for c in read_cells(out / "cells.csv") if c.role == "student" and c.channel == channel]
    return out / "checkpoints" / cell.cell_id / "0"


def test_last_day_is_predicted_with_the_snapshot_that_the_lag_allows(out: Path) -> None:
    """Day 5 at lag 1: trained through day 3."""
    own = load_file(folder_of(out, "sharing") / "model.safetensors")
    teacher = load_file(out / "teacher/0/snapshots/day-0003.safetensors")
    unseen = own["inputs.sharing.unseen"].squeeze(1).split([240, 60])
    for part, feature in zip(unseen, ("user_id", "item_id"), strict=True):
        seen = teacher[f"tables.{feature}.momentum"] > 0
        assert torch.equal(part == 0, seen) and seen.any()
        rows = own[f"inputs.sharing.tables.{feature}.weight"]
        assert torch.equal(rows[seen], teacher[f"tables.{feature}.weight"][seen]) and not rows[~seen].any()


def test_share_of_unseen_ids_falls_with_the_days(out: Path) -> None:
    days = json.loads((folder_of(out, "sharing") / "report.json").read_text())["days"]
    unseen = {day["day"]: day["means"]["sharing/unseen"] for day in days}
    assert unseen[1] == unseen[2] == 1 and 1 > unseen[3] > unseen[4] >= 0


def test_none_is_as_without_the_channel(out: Path) -> None:
    assert not any(
        name.startswith("inputs.") for name in load_file(folder_of(out, "none") / "model.safetensors")
    )


def test_a_snapshot_from_elsewhere_needs_no_teacher(out: Path, data: Path, tmp_path: Path) -> None:
    snapshot = str(out / "teacher/0/snapshots/day-0002.safetensors")
    options = {"dim": 8, "snapshot": snapshot, "copies": "trained"}
    changes = CHANGES | {"teacher": None, "channels": {"sharing": {"sharing": options}}}
    config = write_experiment(tmp_path / "a", data, tmp_path / "cache", **changes)
    assert main(["run", str(config)]) == 0
    assert load_file(folder_of(tmp_path / "a" / "out", "sharing") / "model.safetensors")[
        "inputs.sharing.filled"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "channels.sharing.sharing: got the channel 'sharing' without its teacher"),
        (
            {"snapshot": "none.safetensors"},
            "sharing.snapshot: got 'none.safetensors', allowed: an existing file",
        ),
        ({"copy": "frozen"}, "channels.sharing.sharing.copy: got an unknown key"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = CHANGES | {"teacher": None, "channels": {"sharing": {"sharing": options}}}
    assert main(["validate", str(write_experiment(tmp_path / "a", data, tmp_path / "cache", **changes))]) == 2
    said = capsys.readouterr()
    assert message in said.err + said.out
