from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, roc_auc_score

from distill.claims import twice_claim, twice_claims
from distill.interval import Statistic
from distill.measure import MEASURES
from distill.results import TRANSFER_COLUMNS
from distill.scores import ScoreError
from distill.transfer import Group, Losses, differences, transfer_rows
from tests.distill.prediction_data import STUDENT, TEACHER, predictions, write_run

VERTICALS = ("feed", "reels")
P = {"feed": 0.4, "reels": 0.2, "pooled": 0.3}
RATES = {vertical: {"click": p} for vertical, p in P.items()}
H = {v: -(p * np.log(p) + (1 - p) * np.log(1 - p)) for v, p in P.items()}
N = 1500  # rows of each vertical
QUALITY = {
    "none": 1.0,
    "single": 0.9,
    "ah": 0.8,
    "all": 0.4,
    "fm": 0.2,
}  # standard deviation of a model's error


def truth():
    rng = np.random.default_rng(5)
    logit = np.concatenate([rng.normal(-0.5, 1.5, N), rng.normal(-2.0, 1.5, N)])
    label = (rng.random(2 * N) < 1 / (1 + np.exp(-logit))).astype(int)
    return logit, label, rng.integers(0, 400, 2 * N)


TRUE_LOGIT, LABEL, USER = truth()
DOMAIN = np.repeat(VERTICALS, N)


def model(name, seed, split="tune"):
    """Predictions on both verticals: the truth with an error and, for `none`, a shift of the base rate."""
    rng = np.random.default_rng([seed, len(name), ord(name[0])])
    logit = TRUE_LOGIT + QUALITY[name] * rng.normal(size=2 * N) + (0.3 if name == "none" else 0.0)
    return predictions(logit, LABEL, user_id=USER, domain=DOMAIN, split=split)


def run(channels=("none", "ah"), seeds=(0, 1, 2), teacher_seeds=(0, 1, 2), verticals=VERTICALS, split="tune"):
    """Cells and predictions of a run with students of these channels and one teacher."""
    of = {
        replace(STUDENT, channel=channel, vertical=v): {
            s: model(channel, s, split).select("tune", [v]) for s in seeds
        }
        for channel in channels
        for v in verticals
    }
    return of | ({TEACHER: {s: model("fm", s, split) for s in teacher_seeds}} if teacher_seeds else {})


def rows_of(tmp_path, of, verticals=VERTICALS):
    losses = Losses(write_run(tmp_path, of), verticals, RATES, "tune", draws=200)
    return {(row["channel"], row["vertical"], row["measure"]): row for row in transfer_rows(losses)}


def expected_loss(name, vertical, kind, seeds=(0, 1, 2)):
    """Mean over seeds of L, by scikit-learn and scipy."""
    found = []
    for seed in seeds:
        p = model(name, seed).select("tune", [vertical])
        logit, label = p.logits["click"].astype(float), p.labels["click"]
        if kind == "auc":
            found.append(1 - roc_auc_score(label, logit))
            continue

        def loss(b, logit=logit, label=label):
            return log_loss(label, 1 / (1 + np.exp(-logit - b)))

        found.append((minimize_scalar(loss).fun if kind == "ne_intercept" else loss(0.0)) / H[vertical])
    return np.mean(found)


@pytest.mark.parametrize("kind", MEASURES)
def test_ratios_equal_their_definition(tmp_path, kind):
    rows = rows_of(tmp_path, run())
    deltas = {}
    for vertical in VERTICALS:
        none, ah, fm = (expected_loss(name, vertical, kind) for name in ("none", "ah", "fm"))
        deltas[vertical] = (none - ah, none - fm)
    deltas["macro"] = tuple(sum(deltas[v][place] for v in VERTICALS) for place in (0, 1))
    for vertical, (numerator, denominator) in deltas.items():
        row = rows["ah", vertical, kind]
        assert (row["delta_vm"], row["delta_fm"]) == pytest.approx((numerator, denominator), abs=1e-6)
        assert row["tr"] == pytest.approx(numerator / denominator, abs=1e-4)
        assert row["tr_low"] < row["tr"] < row["tr_high"]
        assert row["seeds"] == 3


def test_rows_carry_the_columns_of_the_file(tmp_path):
    rows = rows_of(tmp_path, run())
    assert len(rows) == 9  # (2 verticals + macro) x 3 measures; none has no row of its own
    for row in rows.values():
        assert tuple(row) == TRANSFER_COLUMNS
        assert (row["model"], row["schedule"], row["lag"], row["split"]) == (
            "deepfm",
            "progressive",
            1,
            "tune",
        )


def test_a_student_as_good_as_the_teacher_has_ratio_one(tmp_path):
    of = run(channels=("none",))
    for vertical in VERTICALS:
        student = replace(STUDENT, channel="all", vertical=vertical)
        of[student] = {seed: rows.select("tune", [vertical]) for seed, rows in of[TEACHER].items()}
    row = rows_of(tmp_path, of)["all", "macro", "ne"]
    assert (row["tr"], row["tr_low"], row["tr_high"]) == pytest.approx((1.0, 1.0, 1.0))


def test_a_teacher_no_better_than_none_leaves_the_ratio_null(tmp_path):
    of = run()
    of[TEACHER] = {seed: model("none", seed) for seed in range(3)}
    row = rows_of(tmp_path, of)["ah", "macro", "ne"]
    assert (row["tr"], row["tr_low"], row["tr_high"]) == (None, None, None)
    assert row["delta_vm"] > 0
    assert row["delta_fm"] == pytest.approx(0.0, abs=1e-12)


def test_a_teacher_worse_than_none_leaves_the_ratio_null(tmp_path):
    of = run(channels=("ah", "none"))
    of[TEACHER] = {seed: replace(p, logits={"click": -p.logits["click"]}) for seed, p in of[TEACHER].items()}
    row = rows_of(tmp_path, of)["ah", "macro", "ne"]
    assert row["tr"] is None
    assert row["delta_fm"] < 0


def test_one_seed_counts_the_bootstrap_alone(tmp_path):
    row = rows_of(tmp_path, run(seeds=(0,), teacher_seeds=(0,)))["ah", "macro", "ne"]
    assert row["seeds"] == 1
    assert row["tr_low"] < row["tr"] < row["tr_high"]


def test_a_teacher_of_one_seed_is_the_reference_of_all(tmp_path):
    row = rows_of(tmp_path, run(teacher_seeds=(7,)))["ah", "feed", "ne"]
    none, fm = expected_loss("none", "feed", "ne"), expected_loss("fm", "feed", "ne", seeds=(7,))
    assert row["delta_fm"] == pytest.approx(none - fm, abs=1e-6)
    assert row["seeds"] == 3


def test_a_teacher_of_other_seeds_is_refused(tmp_path):
    with pytest.raises(ScoreError, match=r"seeds of a reference: got \(0, 1\), allowed: \(0, 1, 2\)"):
        rows_of(tmp_path, run(teacher_seeds=(0, 1)))


def test_students_of_other_seeds_than_none_are_refused(tmp_path):
    of = run()
    del of[replace(STUDENT, channel="ah", vertical="feed")][2]
    with pytest.raises(ScoreError, match=r"seeds: got \(0, 1, 2\) and \(0, 1\)"):
        rows_of(tmp_path, of)


def test_without_a_teacher_the_numerator_remains(tmp_path):
    row = rows_of(tmp_path, run(teacher_seeds=()))["ah", "macro", "ne"]
    assert row["delta_vm"] > 0
    assert (row["tr"], row["delta_fm"]) == (None, None)


def test_without_none_nothing_is_known(tmp_path):
    row = rows_of(tmp_path, run(channels=("ah",)))["ah", "macro", "ne"]
    assert (row["tr"], row["delta_vm"], row["delta_fm"], row["seeds"]) == (None, None, None, 3)


def test_macro_needs_a_student_on_every_vertical(tmp_path):
    rows = rows_of(tmp_path, run(verticals=("feed",)))
    assert {vertical for _, vertical, _ in rows} == {"feed"}


def test_none_of_another_lag_is_no_reference(tmp_path):
    of = run()
    moved = {
        replace(c, lag=3) if c.channel == "none" and c.role == "student" else c: p for c, p in of.items()
    }
    assert rows_of(tmp_path, moved)["ah", "feed", "ne"]["delta_vm"] is None


def test_none_of_another_route_serves_as_well(tmp_path):
    of = run()
    moved = {replace(c, route="hierarchical") if c.channel == "ah" else c: p for c, p in of.items()}
    assert rows_of(tmp_path, moved)["ah", "feed", "ne"]["delta_vm"] > 0


def test_a_frozen_schedule_takes_the_frozen_teacher(tmp_path):
    frozen = {replace(c, schedule="frozen"): p for c, p in run().items()}
    frozen[TEACHER] = {seed: model("none", seed) for seed in range(3)}  # progressive, for other students
    assert rows_of(tmp_path, frozen)["ah", "macro", "ne"]["tr"] is not None


def test_two_teachers_are_ambiguous(tmp_path):
    of = run()
    with pytest.raises(ScoreError, match="FM reference .* got 2"):
        rows_of(tmp_path, of | {replace(TEACHER, model="other"): of[TEACHER]})


def test_a_cell_given_twice_is_refused(tmp_path):
    sources = write_run(tmp_path, run(seeds=(0,), teacher_seeds=(0,)))
    with pytest.raises(ScoreError, match="more than once"):
        Losses([*sources, sources[0]], VERTICALS, RATES, "tune", draws=10)


def test_no_students_give_no_rows(tmp_path):
    losses = Losses(write_run(tmp_path, {TEACHER: {0: model("fm", 0)}}), VERTICALS, RATES, "tune", draws=10)
    assert transfer_rows(losses) == []
    assert transfer_rows(Losses([], VERTICALS, RATES, "tune")) == []


def test_an_undefined_loss_leaves_nulls(tmp_path):
    of = run(channels=("none", "ah"), seeds=(0,), teacher_seeds=(0,))
    of = {
        cell: {
            s: replace(p, labels={"click": np.where(p.domain == 1, 0, p.labels["click"])})
            for s, p in seeds.items()
        }
        for cell, seeds in of.items()
    }
    rows = rows_of(tmp_path, of)
    assert rows["ah", "reels", "auc"]["delta_vm"] is None  # reels has one class now
    assert rows["ah", "macro", "auc"]["tr"] is None
    assert rows["ah", "reels", "ne"]["delta_vm"] is not None


def test_differences_are_paired_across_run_folders(tmp_path):
    a = write_run(tmp_path / "a", run(channels=("none",), teacher_seeds=(), verticals=("feed",)))
    b = write_run(tmp_path / "b", run(channels=("all",), teacher_seeds=(), verticals=("feed",)))
    pairs = [(a[0], b[0]), (a[0], a[0])]
    found: Any = [of["feed", "click", "ne"] for of in differences(pairs, VERTICALS, RATES, "tune")]
    better, same = found
    assert better.value == pytest.approx(
        expected_loss("none", "feed", "ne") - expected_loss("all", "feed", "ne"), abs=1e-6
    )
    assert better.excludes_zero and better.low > 0
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert not same.excludes_zero


def test_a_teacher_of_one_seed_differs_from_every_seed(tmp_path):
    students, teacher = write_run(tmp_path, run(("none",), teacher_seeds=(7,), verticals=("feed",)))
    forth, back = differences([(students, teacher), (teacher, students)], VERTICALS, RATES, "tune")
    found: Any = [of["feed", "click", "ne"] for of in (forth, back)]
    expected = expected_loss("none", "feed", "ne") - expected_loss("fm", "feed", "ne", seeds=(7,))
    assert [of.value for of in found] == pytest.approx([expected, -expected], abs=1e-6)
    assert found[0].seeds == found[1].seeds == 3


def gain(value, noise=0.01, seed=0):
    draws = np.random.default_rng(seed).normal(value, noise, 1000)
    return Statistic((0, 1), np.array([value - noise, value + noise]), draws)


@pytest.mark.parametrize(
    ("delta_all", "delta_ah", "delta_single", "verdict"),
    [
        (5.0, 1.0, 0.5, "pass"),
        (1.5, 1.0, 0.5, "fail"),
        (2.0, 1.0, 0.5, "fail"),  # at twice, the interval holds 0
        (5.0, 1.0, 1.0, "fail"),  # ah does not beat single
        (5.0, -1.0, -3.0, "undefined"),
        (5.0, 0.0, -3.0, "undefined"),
    ],
)
def test_at_least_twice_is_a_difference_above_zero(delta_all, delta_ah, delta_single, verdict):
    claim = twice_claim(gain(delta_all), gain(delta_ah, seed=1), gain(delta_single, seed=2))
    assert claim.verdict == verdict
    assert claim.difference.value == pytest.approx(delta_all - 2 * delta_ah)
    assert claim.ah_over_single.value == pytest.approx(delta_ah - delta_single)


def test_claims_of_a_run(tmp_path):
    channels = ("none", "single", "ah", "all")
    losses = Losses(write_run(tmp_path, run(channels)), VERTICALS, RATES, "tune", draws=200)
    claims = twice_claims(losses)
    group = Group("deepfm", "progressive", "thin", "direct", 1, "all")
    assert set(claims) == {(group, "click", kind) for kind in MEASURES}
    rows = {(r["channel"], r["measure"]): r for r in transfer_rows(losses) if r["vertical"] == "macro"}
    claim = claims[group, "click", "auc"]
    assert claim.delta_all.value == pytest.approx(rows["all", "auc"]["delta_vm"])
    assert claim.difference.value == pytest.approx(
        rows["all", "auc"]["delta_vm"] - 2 * rows["ah", "auc"]["delta_vm"]
    )


def test_claims_need_every_channel_and_vertical(tmp_path):
    losses = Losses(
        write_run(tmp_path, run(("none", "ah", "all"), seeds=(0,), teacher_seeds=())),
        VERTICALS,
        RATES,
        "tune",
        10,
    )
    assert twice_claims(losses) == {}
