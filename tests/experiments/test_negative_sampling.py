"""Students that train on a share of the negatives, through the real `distill run`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.__main__ import main
from tests.experiments.tiny_experiment import DOMAINS, EXPERIMENT, raw_rows, write_days, write_experiment

SHARE = 0.25
CHANNELS = ("none", "single", "ah")
TRAINED, TUNE = (1, 2, 3, 4), (4, 5)


def splitmix64(state: int) -> int:
    every = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & every
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & every
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & every
    return z ^ (z >> 31)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """The data, and the run's folder of checkpoints and predictions of each channel's cell."""
    folder = tmp_path_factory.mktemp("sampled")
    data = write_days(folder / "data", rows=3000)
    student: dict[str, Any] = EXPERIMENT["students"][0] | {
        "verticals": ["feed"],
        "tasks": ["click"],
        "negative_sampling": SHARE,
        "optimizer": {"batch_size": 20, "learning_rate": 0.01},
    }
    config = write_experiment(
        folder / "run", data, folder / "cache", students=[student], seeds=[0], floor=False
    )
    assert main(["run", str(config)]) == 0
    with (folder / "run/out/cells.csv").open() as file:
        cells = {r["channel"]: r["cell_id"] for r in csv.DictReader(file) if r["model"] == "small"}
    assert set(cells) == set(CHANNELS)
    return data, {channel: folder / "run/out" / "{}" / cell for channel, cell in cells.items()}


def predictions(place: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(str(place).format("predictions") + "/0.parquet")
    return {name: table[name].to_numpy() for name in ("example_id", "day", "logit_click", "label_click")}


@pytest.mark.parametrize("channel", CHANNELS)
def test_trained_on_positives_and_the_hashs_share(run: tuple[Path, dict[str, Path]], channel: str) -> None:
    data, places = run
    report = json.loads(Path(str(places[channel]).format("checkpoints"), "0", "report.json").read_text())
    kept = 0
    for day, of_day in zip(TRAINED, report["days"], strict=True):
        rows = raw_rows(data, day)
        mine = np.array([name == DOMAINS[0] for name in rows["domain"]])
        lucky = np.array([splitmix64(int(number)) < SHARE * 2**64 for number in rows["example_id"]])
        kept += int((mine & ((rows["label_click"] == 1) | lucky)).sum())
        assert of_day["examples_seen"] == kept


@pytest.mark.parametrize("channel", CHANNELS)
def test_predicts_every_row_with_the_rate_of_all_rows(
    run: tuple[Path, dict[str, Path]], channel: str
) -> None:
    """Uncorrected, odds of about 3 to 4 would be taken for 3 to 1: predictions of .75, and .43 is true."""
    data, places = run
    found = predictions(places[channel])
    for day in TUNE:
        rows = raw_rows(data, day)
        mine = np.array([name == DOMAINS[0] for name in rows["domain"]])
        assert sorted(found["example_id"][found["day"] == day]) == sorted(rows["example_id"][mine])
    tune = np.isin(found["day"], TUNE)
    served = 1 / (1 + np.exp(-found["logit_click"][tune].astype(np.float64)))
    assert 0.85 < served.sum() / found["label_click"][tune].sum() < 1.15
