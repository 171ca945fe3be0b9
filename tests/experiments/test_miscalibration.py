"""The worst calibrated slices, on predictions made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.cells import read_cells
from distill.predictions import (
    CellPredictions,
    Predictions,
    prediction_path,
    read_predictions,
    write_predictions,
)
from experiments.familiarity import GROUPS, Familiarity
from experiments.miscalibration import MIN_POSITIVES, worst_calibrated
from experiments.recorded import RecordedRun, read_run
from tests.experiments.synthetic_run import write_synthetic_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = {"teacher": 0.2, "none": 0.75}
    return write_synthetic_run(tmp_path_factory.mktemp("slices") / "run", noise=noise, seeds=(0, 1))


def with_logit(folder: Path, day: int, logit: float) -> tuple[RecordedRun, CellPredictions, Predictions]:
    """The clicks of `none` on `feed`: right on average on every day but one, on which all rows have this logit."""
    cell = next(c for c in read_cells(folder / "cells.csv") if c.role == "student" and c.vertical == "feed")
    for seed in (0, 1):
        path = prediction_path(folder, cell, seed)
        rows = read_predictions(path)
        label, logits = rows.labels["click"], rows.logits["click"].copy()
        for each in np.unique(rows.day):
            inside = rows.day == each
            p = label[inside].mean()
            logits[inside] = logit if each == day else np.log(p / (1 - p))
        write_predictions(path, replace(rows, logits={**rows.logits, "click": logits}))
    source = CellPredictions(cell, folder)
    return read_run(folder), source, source.read(0, ["tune"]).select("tune", ["feed"])


def test_a_day_that_is_off_comes_first(folder: Path) -> None:
    run, source, rows = with_logit(folder, day=10, logit=2.0)
    found = [place for place in worst_calibrated(run, source, None) if place.task == "click"]
    days = {place.slice: place for place in found if place.slice.startswith("day")}
    label = rows.labels["click"][rows.day == 10]
    assert max(days.values(), key=lambda place: place.distance) is days["day 10"]
    assert days["day 10"].calibration == pytest.approx(
        len(label) / (1 + np.exp(-2.0)) / label.sum(), rel=1e-5
    )
    assert (days["day 10"].examples, days["day 10"].positives) == (len(label), label.sum())
    assert days["day 9"].calibration == pytest.approx(1, rel=1e-5)


def test_half_is_as_far_as_twice_and_the_worst_comes_first(folder: Path) -> None:
    run, source, _ = with_logit(folder, day=10, logit=-4.0)
    found = worst_calibrated(run, source, None)
    off = [max(place.calibration, 1 / place.calibration) for place in found]
    assert off == sorted(off, reverse=True) and off[0] > 2


def test_few_positives_have_no_place(folder: Path) -> None:
    run, source, _ = with_logit(folder, day=10, logit=-4.0)
    found = worst_calibrated(run, source, None, most=1000)
    assert found and min(place.positives for place in found) >= MIN_POSITIVES


def test_old_and_new_are_slices_when_they_are_known(folder: Path) -> None:
    run, source, rows = with_logit(folder, day=10, logit=2.0)
    group = (np.arange(len(rows.example_id)) % 2).astype(np.int8)
    order = np.argsort(rows.example_id)
    familiar = Familiarity(rows.example_id[order], group[order])
    found = {p.slice: p for p in worst_calibrated(run, source, familiar, most=1000) if p.task == "click"}
    for place in (0, 1):
        assert found[GROUPS[place]].positives == rows.labels["click"][group == place].sum()
    assert GROUPS[2] not in found
