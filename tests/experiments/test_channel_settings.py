"""Settings of a channel that one student has instead of the experiment's, through the real `distill run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import experiments.catalog  # noqa: F401  fills the registries
from distill.cells import read_cells
from distill.load_config import load_config
from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

STUDENT = EXPERIMENT["students"][0] | {"verticals": ["feed"], "channels": ["ah"]}


def students(own: dict[str, Any]) -> list[dict[str, Any]]:
    """One that learns as the experiment says, one with settings of its own."""
    return [STUDENT, STUDENT | {"name": "other", "channel_settings": own}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("data") / "mine", days=4, rows=300)


def config_of(data: Path, folder: Path, own: dict[str, Any]) -> Path:
    days = {"tune_days": [4], "test_days": []}
    changes = {"students": students(own), "seeds": [0], "floor": False, "schedule": days}
    return write_experiment(folder / "a", data, folder / "cache", **changes)


def test_a_student_learns_by_its_own_settings(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path, {"ah": {"ah": {"weight": 0.0}}})
    assert main(["run", str(config)]) == 0
    out = tmp_path / "a" / "out"
    logits = {}
    for cell in read_cells(out / "cells.csv"):
        table = pq.read_table(out / "predictions" / cell.cell_id / "0.parquet")
        logits[cell.model, cell.channel] = table["logit_click"].to_pylist()
    assert logits["other", "ah"] == logits["other", "none"] == logits["small", "none"]
    assert logits["small", "ah"] != logits["small", "none"]


def test_settings_left_out_are_the_experiment_s(data: Path, tmp_path: Path) -> None:
    loaded = load_config(config_of(data, tmp_path, {"ah": {"ah": {"beta": 0.25}}}))
    own = loaded.config.students[1].channel_settings["ah"]["ah"]
    assert (own["beta"], own["weight"]) == (0.25, 0.5)
    assert loaded.config.channels["ah"]["ah"]["beta"] == 1.0
    again = tmp_path / "again.yaml"
    again.write_text(loaded.to_yaml())
    assert load_config(again).config == loaded.config and yaml.safe_load(again.read_text())


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"ha": {"ah": {}}}, "channel_settings.ha: got 'ha'"),
        ({"ah": {"adapter": {}}}, "channel_settings.ah.adapter: got 'adapter'"),
        ({"ah": {"ah": {"wieght": 1.0}}}, "channel_settings.ah.ah.wieght"),
        ({"ah": {"ah": {"beta": -1.0}}}, "ah.beta: got -1.0"),
    ],
)
def test_unknown_and_wrong_settings_are_refused(
    data: Path, tmp_path: Path, own: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(config_of(data, tmp_path, own))]) == 2
    assert message in capsys.readouterr().err
