"""What is said of a run's scores at its end."""

from __future__ import annotations

from typing import Any

from experiments.pipeline.sanity import sanity_lines

TEACHER = {"role": "teacher", "model": "gem", "vertical": "pooled", "channel": "none"}
FLOOR = {"role": "floor", "model": "logistic_regression", "vertical": "pooled", "channel": "none"}
STUDENT = {"role": "student", "model": "deepfm", "vertical": "feed", "channel": "ah"}
FINE = "ok     every model beats the constant of its vertical and task"


def row(of: dict[str, str], **changed: Any) -> dict[str, Any]:
    scores = {"auc": 0.7, "logloss": 0.5, "constant_logloss": 0.6}
    return {**of, "task": "click", "split": "tune", **scores, **changed}


def test_teacher_must_beat_the_floor_in_the_mean_over_seeds() -> None:
    floor = [row(FLOOR, auc=0.72), row(FLOOR, auc=0.72)]
    above = sanity_lines([row(TEACHER, auc=0.71), row(TEACHER, auc=0.75), *floor])
    assert above == [
        "ok     tune click: pooled AUC of the teacher 0.7300, "
        "of the logistic regression on earlier days' rates 0.7200",
        FINE,
    ]
    below = sanity_lines([row(TEACHER, auc=0.71), row(TEACHER, auc=0.72), *floor])
    assert below[0].startswith("BROKEN tune click: pooled AUC of the teacher 0.7150")


def test_teacher_as_good_as_the_floor_is_broken() -> None:
    assert sanity_lines([row(TEACHER), row(FLOOR)])[0].startswith("BROKEN tune click")


def test_pooled_rows_alone_are_compared() -> None:
    rows = [row(TEACHER), row(FLOOR, auc=0.6), row(TEACHER | {"vertical": "feed"}, auc=0.1)]
    assert sanity_lines(rows)[0].startswith("ok     tune click")


def test_splits_and_tasks_are_compared_by_themselves() -> None:
    places = [("tune", "click", 0.6), ("tune", "order", 0.8), ("test", "click", 0.8)]
    rows = [row(TEACHER, split=split, task=task) for split, task, _ in places]
    rows += [row(FLOOR, split=split, task=task, auc=auc) for split, task, auc in places]
    words = [line[:17] for line in sanity_lines(rows)[:3]]
    assert words == ["BROKEN test click", "ok     tune click", "BROKEN tune order"]


def test_nothing_is_compared_without_a_floor_a_teacher_or_an_auc() -> None:
    assert sanity_lines([row(TEACHER)]) == [FINE]
    assert sanity_lines([row(FLOOR), row(STUDENT)]) == [FINE]
    assert sanity_lines([row(TEACHER, auc=None), row(FLOOR)]) == [FINE]
    assert sanity_lines([row(TEACHER), row(FLOOR, task="order")]) == [FINE]


def test_model_that_loses_to_its_constant_is_named() -> None:
    seeds = [row(STUDENT, logloss=0.58), row(STUDENT, logloss=0.64)]
    (line,) = sanity_lines([row(TEACHER), *seeds])
    assert line == "BROKEN student deepfm feed ah click tune: log-loss 0.6100, of its constant 0.6000"


def test_model_that_beats_its_constant_in_the_mean_is_fine() -> None:
    assert sanity_lines([row(STUDENT, logloss=0.58), row(STUDENT, logloss=0.61)]) == [FINE]


def test_rows_without_scores_say_nothing() -> None:
    empty = row(STUDENT, logloss=None, constant_logloss=None, auc=None)
    assert sanity_lines([empty, row(STUDENT, constant_logloss=None, logloss=0.9)]) == [FINE]
