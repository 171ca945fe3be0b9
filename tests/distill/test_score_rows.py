from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from distill.predictions import PredictionError
from distill.results import ROW_COLUMNS, SCORE_COLUMNS
from distill.score_rows import score_rows
from distill.scores import ScoreError
from distill.truth import Truth
from tests.distill.prediction_data import STUDENT, TEACHER, predictions, write_run

VERTICALS = ("feed", "reels")
RATES = {"feed": {"click": 0.5}, "reels": {"click": 0.1}, "pooled": {"click": 0.2}}
DOMAINS = (*VERTICALS, "other")
DOMAIN = np.repeat(DOMAINS, 100)


def rows(seed=0, split="tune"):
    rng = np.random.default_rng(seed)
    label = np.random.default_rng(9).integers(0, 2, 300)
    return predictions(
        rng.normal(size=300), label, domain=DOMAIN, domains=DOMAINS, split=split, user_id=np.arange(300) % 9
    )


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def scored(tmp_path, of, **options):
    found = score_rows(write_run(tmp_path, of), VERTICALS, RATES, **options)
    return {(row["cell_id"], row["vertical"], row["seed"], row["split"]): row for row in found}


def test_a_teacher_is_scored_on_every_vertical_and_pooled(tmp_path):
    found = scored(tmp_path, {TEACHER: {0: rows(0), 1: rows(1)}})
    assert set(found) == {(TEACHER.cell_id, v, s, "tune") for v in (*VERTICALS, "pooled") for s in (0, 1)}
    assert [found[TEACHER.cell_id, v, 0, "tune"]["examples"] for v in (*VERTICALS, "pooled")] == [
        100,
        100,
        200,
    ]


@pytest.mark.parametrize(
    ("vertical", "p", "part"), [("reels", 0.1, slice(100, 200)), ("pooled", 0.2, slice(200))]
)
def test_scores_equal_scikit_learn(tmp_path, vertical, p, part):
    row = scored(tmp_path, {TEACHER: {0: rows()}})[TEACHER.cell_id, vertical, 0, "tune"]
    logit, label = rows().logits["click"][part].astype(float), rows().labels["click"][part]
    predicted = 1 / (1 + np.exp(-logit))
    expected = {
        "examples": len(label),
        "positives": label.sum(),
        "base_rate": p,
        "constant_logloss": log_loss(label, np.full(len(label), p)),
        "logloss": log_loss(label, predicted),
        "ne": log_loss(label, predicted) / entropy(p),
        "auc": roc_auc_score(label, logit),
        "calibration": predicted.sum() / label.sum(),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert (row["gauc"], row["oracle_ne"]) == (None, None)


def test_rows_carry_the_columns_of_the_file(tmp_path):
    (row,) = scored(tmp_path, {STUDENT: {3: rows().select("tune", ["feed"])}}).values()
    assert tuple(row) == ROW_COLUMNS
    assert (row["model"], row["channel"], row["task"], row["seed"]) == ("deepfm", "none", "click", 3)


def test_students_of_all_verticals_are_pooled(tmp_path):
    reels = dataclasses.replace(STUDENT, vertical="reels")
    of = {
        STUDENT: {0: rows().select("tune", ["feed"]), 1: rows(1).select("tune", ["feed"])},
        reels: {0: rows().select("tune", ["reels"])},
        TEACHER: {0: rows()},
    }
    found = scored(tmp_path, of)
    pooled = dataclasses.replace(STUDENT, vertical="pooled").cell_id
    assert {key[2] for key in found if key[0] == pooled} == {0}  # seed 1 has no student on reels
    student, teacher = found[pooled, "pooled", 0, "tune"], found[TEACHER.cell_id, "pooled", 0, "tune"]
    assert {n: student[n] for n in SCORE_COLUMNS} == pytest.approx({n: teacher[n] for n in SCORE_COLUMNS})


def test_students_of_some_verticals_are_not_pooled(tmp_path):
    found = scored(tmp_path, {STUDENT: {0: rows().select("tune", ["feed"])}})
    assert [row["vertical"] for row in found.values()] == ["feed"]


def test_test_days_are_scored_only_when_asked_for(tmp_path):
    split = np.tile(["tune", "test"], 150)
    assert {key[3] for key in scored(tmp_path, {TEACHER: {0: rows(split=split)}})} == {"tune"}
    found = scored(tmp_path, {TEACHER: {0: rows(split=split)}}, splits=["tune", "test"])
    assert {(key[1], key[3]): row["examples"] for key, row in found.items()} == {
        (vertical, split): 100 if vertical == "pooled" else 50
        for vertical in (*VERTICALS, "pooled")
        for split in ("tune", "test")
    }


def test_a_split_that_was_not_predicted_is_refused(tmp_path):
    with pytest.raises(PredictionError, match="got no rows of test"):
        scored(tmp_path, {TEACHER: {0: rows()}}, splits=["tune", "test"])


def test_the_oracle_is_scored_on_the_same_rows(tmp_path):
    student = rows().select("tune", ["feed"])
    truth = Truth(np.arange(300), {"click": np.linspace(0.01, 0.99, 300)})
    (row,) = scored(tmp_path, {STUDENT: {0: student.take(np.arange(40, 60))}}, truth=truth).values()
    expected = log_loss(student.labels["click"][40:60], truth.probability["click"][40:60]) / entropy(0.5)
    assert row["oracle_ne"] == pytest.approx(expected)


def test_a_vertical_without_labels_has_no_scores(tmp_path):
    p = rows()
    p = dataclasses.replace(p, labels={"click": np.where(DOMAIN == "reels", -1, p.labels["click"])})
    row = scored(tmp_path, {TEACHER: {0: p}})[TEACHER.cell_id, "reels", 0, "tune"]
    assert {n: row[n] for n in SCORE_COLUMNS} == dict.fromkeys(SCORE_COLUMNS) | {
        "examples": 0, "positives": 0, "base_rate": 0.1,
    }  # fmt: skip


def test_one_class_leaves_auc_and_calibration_null(tmp_path):
    (row,) = scored(tmp_path, {STUDENT: {0: predictions([0.0, 0.0], [0, 0])}}).values()
    assert (row["auc"], row["gauc"], row["calibration"]) == (None, None, None)
    assert row["ne"] == pytest.approx(1.0)


def test_a_missing_base_rate_is_named(tmp_path):
    sources = write_run(tmp_path, {TEACHER: {0: rows()}})
    with pytest.raises(ScoreError, match=r"got none for \(pooled, click\)"):
        score_rows(sources, VERTICALS, {v: RATES[v] for v in VERTICALS})
