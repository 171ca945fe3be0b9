"""The bars of the transfer study on predictions that are made up, against numbers computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, roc_auc_score

from distill.interval import Estimate
from distill.predictions import CellPredictions
from distill.transfer import Losses
from experiments.studies.transfer import calibration
from experiments.studies.transfer.bars import BAR_COLUMNS, above_zero, claims, harmless, small_verticals
from experiments.studies.transfer.calibration import calibrations
from tests.distill.prediction_data import STUDENT, predictions, write_run

VERTICALS = ("feed", "reels", "stories")
SMALL = ("reels", "stories")
P = {"feed": 0.4, "reels": 0.2, "stories": 0.5, "pooled": 0.35}
RATES = {name: {"click": p} for name, p in P.items()}
SEEDS = (0, 1, 2)
N = 700  # rows of each vertical
DRAWS = 200
NOISE = {"none": 1.2, "single": 1.1, "ah": 0.9, "ah_adapter": 0.8, "rawid": 0.7, "all": 0.2}
"""Standard deviation of a channel's error at lag 1."""

Row = dict[str, Any]


def _truth() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    logit = np.concatenate([random.normal(mean, 1.5, N) for mean in (-0.5, -1.8, 0.0)])
    label = (random.random(3 * N) < 1 / (1 + np.exp(-logit))).astype(int)
    return logit, label, random.integers(0, 300, 3 * N)


LOGIT, LABEL, USER = _truth()
DOMAIN = np.repeat(VERTICALS, N)


def logits(noise: float, seed: int, shift: float = 0.0) -> np.ndarray:
    """Of a model: the truth with an error of its own in every seed."""
    random = np.random.default_rng([seed, round(1000 * noise)])
    return (LOGIT + noise * random.normal(size=3 * N) + shift).astype(np.float32)


def sources(
    folder: Path, noise: Mapping[tuple[str, int], float], shift: float = 0.0, **cell: Any
) -> list[CellPredictions]:
    """Students of every vertical.

    Args:
        folder: to be made.
        noise: (channel, lag) to the standard deviation of its error.
        shift: added to the logits of all but `none`.
        cell: fields of all cells.
    """
    runs = {}
    for (channel, lag), of_channel in noise.items():
        of_seed = {
            seed: predictions(
                logits(of_channel, seed, shift if channel != "none" else 0.0),
                LABEL,
                user_id=USER,
                domain=DOMAIN,
                domains=VERTICALS,
            )
            for seed in SEEDS
        }
        for vertical in VERTICALS:
            fields: dict[str, Any] = {"channel": channel, "lag": lag, "vertical": vertical} | cell
            runs[replace(STUDENT, **fields)] = {s: p.select("tune", [vertical]) for s, p in of_seed.items()}
    return write_run(folder, runs)


def loss(noise: float, rows: np.ndarray, p: float, kind: str, shift: float = 0.0) -> float:
    """L of a model on some rows, mean over seeds, by scikit-learn."""
    found = []
    for seed in SEEDS:
        logit, label = logits(noise, seed, shift)[rows].astype(float), LABEL[rows]
        if kind == "auc":
            found.append(1 - roc_auc_score(label, logit))
            continue

        def of(b: float, logit: np.ndarray = logit, label: np.ndarray = label) -> float:
            return float(log_loss(label, 1 / (1 + np.exp(-logit - b))))

        value = minimize_scalar(of).fun if kind == "ne_intercept" else of(0.0)
        found.append(value / -(p * np.log(p) + (1 - p) * np.log(1 - p)))
    return float(np.mean(found))


def gain(noise: float, kind: str, none: float = NOISE["none"]) -> float:
    """Of a model over `none`, summed over verticals."""
    return sum(
        loss(none, DOMAIN == vertical, P[vertical], kind) - loss(noise, DOMAIN == vertical, P[vertical], kind)
        for vertical in VERTICALS
    )


def pooled(noise: float, kind: str) -> float:
    return loss(noise, np.isin(DOMAIN, SMALL), P["pooled"], kind)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Row]:
    """(bar, against, measure) to the row, every channel at lag 1."""
    students = sources(tmp_path_factory.mktemp("core"), {(name, 1): noise for name, noise in NOISE.items()})
    rows = claims(Losses(students, VERTICALS, RATES, "tune", DRAWS))
    rows += small_verticals(
        students, SMALL, {name: RATES[name] for name in (*SMALL, "pooled")}, "tune", DRAWS
    )
    return {(row["bar"], row["against"], row["measure"]): row for row in rows}


KINDS = ("ne", "auc", "ne_intercept")


@pytest.mark.parametrize("kind", KINDS)
def test_twice_is_a_difference_with_its_parts(core: dict[tuple[str, ...], Row], kind: str) -> None:
    row = core["twice", "ah", kind]
    whole, plain = gain(NOISE["all"], kind), gain(NOISE["ah"], kind)
    assert (row["numerator"], row["denominator"]) == pytest.approx((whole, plain), abs=1e-6)
    assert row["value"] == pytest.approx(whole - 2 * plain, abs=1e-6)
    assert row["ratio"] == pytest.approx(whole / plain, rel=1e-4)
    assert row["low"] < row["value"] < row["high"] and row["seeds"] == 3
    assert row["verdict"] == (
        "ok" if row["low"] > 0 and core["ah_over_single", "single", kind]["low"] > 0 else "MISSED"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bar", "channel", "against"),
    [
        ("ah_over_single", "ah", "single"),
        ("over_rawid", "all", "rawid"),
        ("adapter_helps", "ah_adapter", "ah"),
    ],
)
def test_one_channel_over_another(
    core: dict[tuple[str, ...], Row], bar: str, channel: str, against: str, kind: str
) -> None:
    row = core[bar, against, kind]
    mine, theirs = gain(NOISE[channel], kind), gain(NOISE[against], kind)
    assert (row["numerator"], row["denominator"]) == pytest.approx((mine, theirs), abs=1e-6)
    assert row["value"] == pytest.approx(mine - theirs, abs=1e-6)
    assert row["verdict"] == ("ok" if row["low"] > 0 else "MISSED")
    assert (row["channel"], row["vertical"], row["ratio"]) == (channel, "macro", None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("against", ["none", "ah"])
def test_small_verticals_are_pooled_rows(core: dict[tuple[str, ...], Row], against: str, kind: str) -> None:
    row = core["small_verticals", against, kind]
    assert row["value"] == pytest.approx(pooled(NOISE[against], kind) - pooled(NOISE["all"], kind), abs=1e-6)
    assert row["numerator"] == pytest.approx(
        pooled(NOISE["none"], kind) - pooled(NOISE["all"], kind), abs=1e-6
    )
    assert (row["vertical"], row["channel"]) == ("pooled", "all")
    assert (
        row["verdict"] == ("ok" if row["low"] > 0 else "MISSED") and row["low"] < row["value"] < row["high"]
    )


def test_a_clear_gain_on_small_verticals_is_ok(core: dict[tuple[str, ...], Row]) -> None:
    assert core["small_verticals", "none", "ne"]["verdict"] == "ok"


def test_every_row_has_the_columns_of_the_table(core: dict[tuple[str, ...], Row]) -> None:
    assert {tuple(row) for row in core.values()} == {BAR_COLUMNS}
    assert {row["split"] for row in core.values()} == {"tune"}


def test_ah_that_loses_leaves_twice_undefined(tmp_path: Path) -> None:
    noise = NOISE | {"ah": 1.5}
    students = sources(tmp_path, {(name, 1): noise[name] for name in ("none", "single", "ah", "all")})
    rows = claims(Losses(students, VERTICALS, RATES, "tune", DRAWS))
    row = next(row for row in rows if (row["bar"], row["measure"]) == ("twice", "ne"))
    assert row["denominator"] < 0 < row["low"], "all is the best by far"
    assert (row["verdict"], row["ratio"]) == ("undefined", None)


WIDE = {
    **{"ah_surfaces": 0.5, "single_surfaces": 0.4, "labels_surfaces": 0.6},
    **{"all_surfaces": 0.15, "all_corrected": 0.12, "all_levelled": 0.11, "all_rows": 0.1},
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Row]:
    """(bar, channel, against) to the row in NE, with the sets that learn from other surfaces' rows."""
    noise = {(name, 1): of for name, of in (NOISE | WIDE).items()}
    students = sources(tmp_path_factory.mktemp("wide"), noise)
    rows = claims(Losses(students, VERTICALS, RATES, "tune", DRAWS))
    rates = {name: RATES[name] for name in (*SMALL, "pooled")}
    rows += small_verticals(students, SMALL, rates, "tune", DRAWS)
    return {(row["bar"], row["channel"], row["against"]): row for row in rows if row["measure"] == "ne"}


@pytest.mark.parametrize("whole", ["all", "all_surfaces", "all_corrected", "all_levelled", "all_rows"])
@pytest.mark.parametrize(
    ("bar", "against", "times"),
    [("twice", "ah", 2), ("twice_single", "single", 2), ("over_rawid", "rawid", 1)],
)
def test_every_whole_is_judged(
    wide: dict[tuple[str, ...], Row], whole: str, bar: str, against: str, times: int
) -> None:
    row, noise = wide[bar, whole, against], NOISE | WIDE
    mine, theirs = gain(noise[whole], "ne"), gain(noise[against], "ne")
    assert (row["numerator"], row["denominator"]) == pytest.approx((mine, theirs), abs=1e-6)
    assert row["value"] == pytest.approx(mine - times * theirs, abs=1e-6)
    assert row["ratio"] == (None if times == 1 else pytest.approx(mine / theirs, rel=1e-4))
    assert row["verdict"] == ("ok" if row["low"] > 0 else "MISSED")


@pytest.mark.parametrize(
    ("channel", "against"),
    [
        ("single_surfaces", "single"),
        ("single_surfaces", "labels_surfaces"),
        ("ah_surfaces", "ah"),
        ("all_surfaces", "labels_surfaces"),
        ("all_surfaces", "single_surfaces"),
        ("all_corrected", "labels_surfaces"),
        ("all_corrected", "single_surfaces"),
        ("all_levelled", "all_corrected"),
        ("all_rows", "labels_surfaces"),
        ("all_rows", "all_levelled"),
    ],
)
def test_other_surfaces_rows_over_none_and_over_their_labels(
    wide: dict[tuple[str, ...], Row], channel: str, against: str
) -> None:
    row, noise = wide["other_surfaces", channel, against], NOISE | WIDE
    expected = gain(noise[channel], "ne") - gain(noise[against], "ne")
    assert row["value"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("whole", ["all_surfaces", "all_corrected", "all_levelled", "all_rows"])
@pytest.mark.parametrize("against", ["none", "ah"])
def test_wholes_on_other_rows_are_judged_on_small_verticals(
    wide: dict[tuple[str, ...], Row], whole: str, against: str
) -> None:
    row = wide["small_verticals", whole, against]
    expected = pooled(NOISE[against], "ne") - pooled(WIDE[whole], "ne")
    assert row["value"] == pytest.approx(expected, abs=1e-6)


def test_twice_what_single_loses_is_undefined(tmp_path: Path) -> None:
    noise = NOISE | {"single": 1.5}
    students = sources(tmp_path, {(name, 1): noise[name] for name in ("none", "single", "all")})
    rows = claims(Losses(students, VERTICALS, RATES, "tune", DRAWS))
    row = next(row for row in rows if (row["bar"], row["measure"]) == ("twice_single", "ne"))
    assert row["denominator"] < 0 < row["low"]
    assert (row["verdict"], row["ratio"]) == ("undefined", None)


LAGS = {0: (0.70, 0.70), 1: (0.90, 0.80), 3: (1.15, 0.75)}
"""Lag to the errors of a teacher as it is and of a corrected one."""
PAIRS = [("ah", "ah_adapter"), ("single_surfaces", "adapter_surfaces"), ("all_surfaces", "all_corrected")]


def by_lag(folder: Path, pair: tuple[str, str] = PAIRS[0], **cell: Any) -> dict[tuple[Any, ...], Row]:
    noise = {(name, lag): of for lag, both in LAGS.items() for name, of in zip(pair, both, strict=True)}
    students = sources(folder, noise | {("none", lag): NOISE["none"] for lag in LAGS}, **cell)
    rows = claims(Losses(students, VERTICALS, RATES, "tune", DRAWS))
    return {(row["bar"], row["lag"], row["measure"]): row for row in rows}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[1])
def test_the_adapter_by_lag(tmp_path: Path, pair: tuple[str, str]) -> None:
    rows = by_lag(tmp_path, pair)
    assert {(row["against"], row["channel"]) for row in rows.values()} == {pair}
    added = {}
    for lag, (plain, corrected) in LAGS.items():
        row = rows["adapter_helps" if lag == 3 else "adapter_harmless", lag, "ne"]
        added[lag] = gain(corrected, "ne") - gain(plain, "ne")
        assert row["value"] == pytest.approx(added[lag], abs=1e-6)
        assert row["verdict"] == "ok"
    assert rows["adapter_harmless", 0, "ne"]["value"] == pytest.approx(0.0, abs=1e-6)
    growth = rows["adapter_grows", 3, "ne"]
    assert growth["value"] == pytest.approx(added[3] - added[0], abs=1e-6)
    assert (growth["numerator"], growth["denominator"]) == pytest.approx((added[3], added[0]), abs=1e-6)
    assert growth["verdict"] == "ok" and growth["low"] > 0
    assert {key[:2] for key in rows} == {
        *(("adapter_harmless", 0), ("adapter_harmless", 1), ("adapter_helps", 3), ("adapter_grows", 3)),
    }


def test_a_frozen_teacher_has_no_lag(tmp_path: Path) -> None:
    assert by_lag(tmp_path, schedule="frozen") == {}


@pytest.mark.parametrize(
    ("low", "high", "gains", "harms"),
    [
        (0.1, 0.2, "ok", "ok"),
        (-0.1, 0.2, "MISSED", "ok"),
        (-0.2, -0.1, "MISSED", "MISSED"),
        (0.0, 0.2, "MISSED", "ok"),
    ],
)
def test_words_for_intervals(low: float, high: float, gains: str, harms: str) -> None:
    found = Estimate((low + high) / 2, low, high, 3)
    assert (above_zero(found), harmless(found)) == (gains, harms)


def test_without_an_interval_there_is_no_verdict() -> None:
    found = Estimate(0.1, None, None, 3)
    assert above_zero(found) == harmless(found) == "undefined"


def test_conditions_without_a_student_on_every_vertical_have_no_bar(tmp_path: Path) -> None:
    students = sources(tmp_path, {(name, 1): noise for name, noise in NOISE.items()})
    part = [
        source for source in students if source.cell.vertical != "stories" or source.cell.channel != "all"
    ]
    rows = claims(Losses(part, VERTICALS, RATES, "tune", DRAWS))
    assert {row["bar"] for row in rows} == {"ah_over_single", "adapter_helps"}
    assert small_verticals(part, SMALL, RATES, "tune", DRAWS) == []
    assert {row["channel"] for row in calibrations(part, VERTICALS, "tune", DRAWS)} == set(NOISE) - {"all"}


def ratio(noise: float, shift: float) -> float:
    """Calibration by hand, mean over seeds."""
    chances = [1 / (1 + np.exp(-logits(noise, seed, shift).astype(float))) for seed in SEEDS]
    return float(np.mean([chance.sum() / LABEL.sum() for chance in chances]))


def calibrated(folder: Path, shift: float) -> dict[tuple[str, str], Row]:
    students = sources(folder, {(name, 1): 0.3 for name in ("none", "all")}, shift)
    rows = calibrations(students, VERTICALS, "tune", DRAWS)
    return {(row["bar"], row["channel"]): row for row in rows}


def test_calibration_of_the_pooled_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEAST_POSITIVES", int(LABEL.sum()))
    rows = calibrated(tmp_path, shift=1.0)
    for name, shift in (("none", 0.0), ("all", 1.0)):
        row, expected = rows["calibration", name], ratio(0.3, shift)
        assert row["value"] == pytest.approx(expected, abs=1e-6) and row["low"] < expected < row["high"]
        assert row["denominator"] == LABEL.sum()
        assert row["numerator"] == pytest.approx(expected * LABEL.sum(), rel=1e-6)
        assert row["verdict"] == ("ok" if 0.97 <= expected <= 1.03 else "MISSED")
    assert rows["calibration", "all"]["verdict"] == "MISSED"
    farther = rows["calibration_no_worse", "all"]
    assert farther["value"] == pytest.approx(abs(ratio(0.3, 1.0) - 1) - abs(ratio(0.3, 0.0) - 1), abs=1e-6)
    assert farther["low"] > 0 and farther["verdict"] == "MISSED"
    assert ("calibration_no_worse", "none") not in rows


def test_the_interval_of_calibration_is_that_of_users(tmp_path: Path) -> None:
    """Of one seed, so that seeds add nothing: the delta method on the users' sums."""
    students = [replace(s, run_folder=tmp_path) for s in sources(tmp_path, {("none", 1): 0.3})]
    for path in tmp_path.glob("predictions/*/[12].parquet"):
        path.unlink()
    (row,) = calibrations(students, VERTICALS, "tune", draws=2000)
    chance = 1 / (1 + np.exp(-logits(0.3, 0).astype(float)))
    influence = np.bincount(USER, chance - row["value"] * LABEL) / LABEL.sum()
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * np.sqrt((influence**2).sum()), rel=0.06)


def test_both_sides_of_one_count_as_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEAST_POSITIVES", 1)
    row = calibrated(tmp_path, shift=-0.5)["calibration_no_worse", "all"]
    below, base = ratio(0.3, -0.5), ratio(0.3, 0.0)
    assert below < 1
    assert row["value"] == pytest.approx((1 - below) - abs(base - 1), abs=1e-6)


def test_few_positives_decide_nothing(tmp_path: Path) -> None:
    rows = calibrated(tmp_path, shift=0.5)
    assert LABEL.sum() < calibration.LEAST_POSITIVES == 10_000
    assert {row["verdict"] for row in rows.values()} == {"undefined"}
    assert rows["calibration", "all"]["value"] > 1.03, "the number is told all the same"


def test_undefined_losses_are_told(tmp_path: Path) -> None:
    """One class only: no AUC, and a row that says so instead of none."""
    students = sources(tmp_path, {(name, 1): NOISE[name] for name in ("none", "single", "ah")})
    for source in students:
        for seed in source.seeds:
            rows = source.read(seed, ["tune"])
            flat = {task: np.zeros_like(label) for task, label in rows.labels.items()}
            write_run(tmp_path, {source.cell: {seed: replace(rows, labels=flat)}})
    found = claims(Losses(students, VERTICALS, RATES, "tune", DRAWS))
    row = next(row for row in found if row["measure"] == "auc")
    assert (row["value"], row["low"], row["seeds"], row["verdict"]) == (None, None, None, "undefined")
