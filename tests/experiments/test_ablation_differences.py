"""Differences of an ablation, of models whose distance to the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from distill.predictions import CellPredictions
from distill.truth import Truth
from experiments.studies.ablation.differences import best_peers, difference_rows
from experiments.studies.scoring import measured
from tests.distill.prediction_data import TEACHER, predictions, write_run
from tests.experiments import recompute

N = 3000
RATES = {name: {"click": 0.4} for name in ("feed", "reels", "pooled")}
H = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))


def made_up(
    folder: Path, noise: Callable[[str], float]
) -> tuple[dict[str, CellPredictions], Truth, np.ndarray]:
    """gem, good and bad: the true logit plus noise, three seeds; and the truth."""
    random = np.random.default_rng(1)
    logit = random.normal(-0.5, 1.5, N)
    p = 1 / (1 + np.exp(-logit))
    label = (random.random(N) < p).astype(int)
    domain, users = np.repeat(["feed", "reels"], N // 2), random.integers(0, 900, N)
    names = ("gem", "good", "bad")
    cells = {
        replace(TEACHER, model=name): {
            seed: predictions(
                logit + noise(name) * random.normal(size=N), label, domain=domain, user_id=users
            )
            for seed in range(3)
        }
        for name in names
    }
    return dict(zip(names, write_run(folder, cells), strict=True)), Truth(np.arange(N), {"click": p}), label


@pytest.fixture
def rows(tmp_path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    noise = {"gem": 0.5, "good": 1.0, "bad": 2.0}
    models, truth, _ = made_up(tmp_path, lambda name: noise[name])
    of = measured(models, ("feed", "reels"), RATES, "tune", truth)
    best = best_peers(of, ["good", "bad"])
    assert best == {("click", "ne"): "good", ("click", "auc"): "good"}
    found = difference_rows(of, "gem", best, {"data": "made_up", "split": "tune"})
    return {tuple(row[k] for k in ("variant", "against", "vertical", "measure")): row for row in found}


def test_distance_to_the_truth_and_the_share_that_goes(
    rows: dict[tuple[str, ...], dict[str, Any]], tmp_path: Path
) -> None:
    noise = {"gem": 0.5, "good": 1.0, "bad": 2.0}
    models, truth, label = made_up(tmp_path / "again", lambda name: noise[name])

    def ne(name: str) -> float:
        read = [models[name].read(seed, ["tune"]).logits["click"] for seed in range(3)]
        return float(np.mean([log_loss(label, recompute.sigmoid(logits)) for logits in read])) / H

    oracle = log_loss(label, truth.probability["click"]) / H
    for name in ("gem", "good"):
        row = rows[name, "oracle", "pooled", "ne"]
        assert (
            row["gain"] == pytest.approx(oracle - ne(name), abs=1e-6)
            and row["low"] < row["gain"] < row["high"]
        )
    share = rows["gem", "best_peer", "pooled", "share_of_distance"]
    assert share["gain"] == pytest.approx((ne("good") - ne("gem")) / (ne("good") - oracle), abs=1e-5)
    assert 0 < share["low"] < share["gain"] < share["high"] and share["peer"] == "good"


def test_only_ne_has_a_distance_and_only_for_those_it_is_about(
    rows: dict[tuple[str, ...], dict[str, Any]],
) -> None:
    assert {key[0] for key in rows if key[1] == "oracle"} == {"gem", "good"}
    assert {key[3] for key in rows if key[1] == "oracle"} == {"ne"}
    assert {key[3] for key in rows} == {"ne", "auc", "share_of_distance"}


def test_without_peers_there_is_none_to_beat(tmp_path: Path) -> None:
    models, _, _ = made_up(tmp_path, lambda name: 1.0)
    of = measured(models, ("feed", "reels"), RATES, "tune")
    assert best_peers(of, []) == {}
    against = {row["against"] for row in difference_rows(of, "gem", {}, {"data": "d", "split": "tune"})}
    assert against == {"good", "bad"}
