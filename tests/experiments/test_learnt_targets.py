"""Student Adapter and gate through the real command: what they are handed, what they log, what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

import experiments.catalog  # noqa: F401  fills the registries
from distill.cells import read_cells
from distill.errors import ConfigErrors
from distill.load_config import load_config
from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

DOMAIN: dict[str, Any] = {
    "name": "apps",
    "architecture": "deepfm",
    "verticals": ["feed"],
    "options": {"dim": 4, "mlp": [8]},
    "optimizer": {"batch_size": 50, "learning_rate": 0.01},
}
CHANNELS: dict[str, Any] = {
    "ah": {"ah": {}},
    "silent": {"adapter": {"weight": 0.0}},
    "ah_adapter": {"ah": {}, "adapter": {"age": True, "hour": True, "surface": True}},
    "gated": {"gated": {}},
}
STUDENT = EXPERIMENT["students"][0] | {"verticals": ["feed"], "delayed_labels": "weighted"}
STUDENTS = [STUDENT, STUDENT | {"name": "below", "route": "hierarchical", "channels": ["gated"]}]
CHANGES: dict[str, Any] = {
    "seeds": [0],
    "floor": False,
    "channels": CHANNELS,
    "domain_teachers": [DOMAIN],
    "students": STUDENTS,
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


def cell_of(out: Path, model: str, channel: str) -> str:
    (cell,) = (c for c in read_cells(out / "cells.csv") if (c.model, c.channel) == (model, channel))
    return cell.cell_id


def last_means(out: Path, model: str, channel: str) -> dict[str, float]:
    report = json.loads(
        (out / "checkpoints" / cell_of(out, model, channel) / "0" / "report.json").read_text()
    )
    return report["days"][-1]["means"]


def logits(out: Path, channel: str) -> list[float]:
    path = out / "predictions" / cell_of(out, "small", channel) / "0.parquet"
    return pq.read_table(path)["logit_click"].to_pylist()


def test_adapter_logs_itself_beside_the_teacher(out: Path) -> None:
    means = last_means(out, "small", "ah_adapter")
    logged = {
        name: means[f"adapter/{name}"] for name in ("loss", "target_loss", "teacher_loss", "correction")
    }
    assert all(value > 0 for value in logged.values())
    assert means["ah/loss"] > 0


def test_an_adapter_of_weight_zero_leaves_the_student_as_it_is(out: Path) -> None:
    assert last_means(out, "small", "silent")["adapter/correction"] > 0
    assert logits(out, "silent") == logits(out, "none")
    assert logits(out, "ah_adapter") != logits(out, "ah")


@pytest.mark.parametrize(("model", "other"), [("small", "apps"), ("below", "gem")])
def test_gate_weighs_the_student_s_teacher_and_the_other_one(out: Path, model: str, other: str) -> None:
    means = last_means(out, model, "gated")
    weights = {name.removeprefix("gated/weight_"): v for name, v in means.items() if "/weight_" in name}
    assert set(weights) == {"own", other} and sum(weights.values()) == pytest.approx(1, rel=1e-5)
    assert means["gated/loss"] > 0


def test_nothing_of_them_is_left_in_the_student(out: Path) -> None:
    def names(channel: str) -> set[str]:
        path = out / "checkpoints" / cell_of(out, "small", channel) / "0" / "model.safetensors"
        with safe_open(path, framework="pt") as file:
            return set(file.keys())

    assert names("ah_adapter") == names("gated") == names("none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"domain_teachers": [], "students": [STUDENT]},
            "channels.gated.gated: got the channel 'gated', which weighs several teachers; allowed: channels of one "
            "teacher, since only one knows 'feed'.",
        ),
        (
            {"students": [STUDENT | {"verticals": ["reels"]}]},
            "channels.gated.gated: got the channel 'gated', which weighs several teachers; allowed: channels of one "
            "teacher, since only one knows 'reels'.",
        ),
        (
            {"channels": CHANNELS | {"gated": {"gated": {"teachers": 3}}}, "students": [STUDENT]},
            "channels.gated.gated.teachers: got 3; allowed: 2, the teachers of a student of 'feed'.",
        ),
        (
            {
                "domain_teachers": [DOMAIN | {"channel": "gated"}],
                "students": [STUDENT | {"channels": ["ah"]}],
            },
            "channels.gated.gated: got the channel 'gated', which weighs several teachers; allowed: channels of one ",
        ),
        (
            {"channels": CHANNELS | {"gated": {"gated": {"gate": "equl"}}}},
            "channels.gated.gated.gate: got 'equl'; allowed: learned, equal. Did you mean 'equal'?",
        ),
        (
            {"channels": CHANNELS | {"silent": {"adapter": {"learning_rate": 0}}}},
            "channels.silent.adapter: adapter.learning_rate: got 0.0, allowed: more than 0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, data: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_experiment(tmp_path / "a", data, tmp_path / "cache", **(CHANGES | changes))
    with pytest.raises(ConfigErrors) as caught:
        load_config(path, [])
    assert [message in str(problem) for problem in caught.value.problems] == [True]


def test_as_many_teachers_as_there_are(tmp_path: Path, data: Path) -> None:
    third = DOMAIN | {"name": "web"}
    changes = {
        "domain_teachers": [DOMAIN, third],
        "students": [STUDENT],
        "channels": CHANNELS | {"gated": {"gated": {"teachers": 3}}},
    }
    path = write_experiment(tmp_path / "a", data, tmp_path / "cache", **(CHANGES | changes))
    assert load_config(path, []).config.channels["gated"]["gated"]["teachers"] == 3
