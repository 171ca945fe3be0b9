"""Channels of representations through the real command: what reaches them, what is kept of them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

import experiments.catalog  # noqa: F401  fills the registries
from distill.cells import Cell, read_cells
from distill.errors import ConfigErrors
from distill.load_config import load_config
from experiments.__main__ import main
from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

DIM = 6
CHANNELS: dict[str, Any] = {
    "repr": {"repr": {"group": "both", "dim": DIM, "history_length": 4}},
    "rawid": {"rawid": {"history_length": 3}},
    "current": {"current": {"dim": 2}},
    "fitnets": {"fitnets": {"dim": DIM}},
    "silent": {"fitnets": {"dim": DIM, "weight": 0.0}},
}
STUDENT = EXPERIMENT["students"][0] | {"verticals": ["feed"]}
RICH = EXPERIMENT["students"][1] | {"channels": ["repr", "rawid"]}
CHANGES: dict[str, Any] = {
    "seeds": [0],
    "floor": False,
    "teacher__representation": {"dim": DIM, "hidden": [8], "prefixes": [2]},
    "channels": CHANNELS,
    "students": [STUDENT, RICH],
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


def cell_of(out: Path, model: str, channel: str) -> Cell:
    (cell,) = (c for c in read_cells(out / "cells.csv") if (c.model, c.channel) == (model, channel))
    return cell


def folder_of(out: Path, model: str, channel: str) -> Path:
    return out / "checkpoints" / cell_of(out, model, channel).cell_id / "0"


def days_of(out: Path, channel: str) -> list[dict[str, float]]:
    """What a channel of the thin student logged, day by day."""
    return [
        day["means"]
        for day in json.loads((folder_of(out, "small", channel) / "report.json").read_text())["days"]
    ]


def names(out: Path, model: str, channel: str) -> set[str]:
    with safe_open(folder_of(out, model, channel) / "model.safetensors", framework="pt") as file:
        return set(file.keys())


def logits(out: Path, model: str, channel: str) -> list[float]:
    path = out / "predictions" / cell_of(out, model, channel).cell_id / "0.parquet"
    return pq.read_table(path)["logit_click"].to_pylist()


@pytest.mark.parametrize("model", ["small", "clicks"])
@pytest.mark.parametrize(("channel", "place"), [("repr", "inputs.repr."), ("rawid", "event_inputs.rawid.")])
def test_fields_are_kept_with_the_student(out: Path, model: str, channel: str, place: str) -> None:
    more = names(out, model, channel) - names(out, model, "none")
    assert more and all(name.startswith(place) for name in more)


def test_only_current_is_kept_of_the_controls_that_read_the_example_itself(out: Path) -> None:
    none = names(out, "small", "none")
    assert names(out, "small", "fitnets") == none
    assert names(out, "small", "current") - none == {"inputs.current.project.weight", "inputs.current.absent"}


def test_every_channel_changes_what_is_predicted(out: Path) -> None:
    predicted = {channel: logits(out, "small", channel) for channel in ("none", *CHANNELS)}
    assert predicted["silent"] == predicted["none"]
    del predicted["silent"]
    assert len({tuple(of_channel) for of_channel in predicted.values()}) == len(predicted)


def test_the_past_fills_with_the_days(out: Path) -> None:
    first, *_, last = days_of(out, "repr")
    for group in ("user", "item"):
        assert last[f"repr/without_{group}_past"] < first[f"repr/without_{group}_past"]
    assert days_of(out, "rawid")[-1]["rawid/without_user_past"] < 0.5


def test_hints_come_on_the_days_that_the_teacher_has_logged(out: Path) -> None:
    losses = [day["fitnets/loss"] for day in days_of(out, "fitnets")]
    assert losses[:2] == [0, 0] and all(loss > 0 for loss in losses[2:]) and len(losses) > 2


def test_thin_stays_thin(out: Path) -> None:
    """Raw history that a channel reads is no history of the student's own."""
    assert (
        cell_of(out, "small", "rawid").inputs == "thin" and cell_of(out, "clicks", "rawid").inputs == "rich"
    )


@pytest.mark.parametrize("channel", ["repr", "current", "fitnets"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher__representation": None}, "got a channel that reads representations, and 'gem' has none"),
        ({"teacher__representation": {"dim": 7}}, "dim: got {dim}; allowed: 7"),
    ],
)
def test_teacher_without_such_representations(
    data: Path, tmp_path: Path, channel: str, changes: dict[str, Any], message: str
) -> None:
    only = {"channels": {channel: CHANNELS[channel]}, "students": [STUDENT]}
    path = write_experiment(tmp_path / "a", data, tmp_path / "cache", **{**CHANGES, **only, **changes})
    message = message.format(dim=CHANNELS[channel][channel]["dim"])
    with pytest.raises(ConfigErrors, match=f"channels.{channel}.{channel}.*{message}"):
        load_config(path)


def test_raw_history_needs_no_teacher(data: Path, tmp_path: Path) -> None:
    only = {"channels": {"rawid": CHANNELS["rawid"]}, "students": [STUDENT], "teacher": None}
    changes = {name: value for name, value in CHANGES.items() if not name.startswith("teacher")}
    load_config(write_experiment(tmp_path / "a", data, tmp_path / "cache", **{**changes, **only}))


@pytest.mark.parametrize(
    ("model", "channel", "said"),
    [
        ("clicks", "repr", "the user's last 4 examples"),
        ("small", "current", "Needs a running teacher"),
    ],
)
def test_exported_with_the_teachers_vectors_it_says_what_the_run_predicted(
    out: Path, tmp_path: Path, model: str, channel: str, said: str
) -> None:
    export, scored = tmp_path / "export", tmp_path / "scored.parquet"
    arguments = [model, "--vertical", "feed", "--channel", channel, "--no-compile", "--to", str(export)]
    assert main(["export", str(out), *arguments]) == 0
    assert main(["score", str(export), str(export / "example.parquet"), "--out", str(scored)]) == 0
    # The last day was predicted by the student that was kept.
    path = out / "predictions" / cell_of(out, model, channel).cell_id / "0.parquet"
    predicted = pq.read_table(path).to_pylist()
    by_id = {row["example_id"]: row["logit_click"] for row in predicted if row["day"] == 5}
    found = pq.read_table(scored).to_pylist()
    assert [row["logit_click"] for row in found] == pytest.approx(
        [by_id[row["example_id"]] for row in found], abs=1e-5
    )
    assert said in (export / "MODEL_CARD.md").read_text()
