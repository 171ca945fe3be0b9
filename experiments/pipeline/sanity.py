"""Does the run make sense? The teacher must beat the floor, every model its constant."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

from distill.cells import POOLED
from distill.transfer import TEACHER
from experiments.pipeline.floor import ROLE as FLOOR

Row = dict[str, Any]
_KEYS = ("role", "model", "vertical", "channel", "task", "split")


def sanity_lines(rows: list[Row]) -> list[str]:
    """One line a check.

    Args:
        rows: of results.json.

    Returns:
        Lines that begin with `ok` or `BROKEN`.
    """
    return [*_teacher_beats_floor(rows), *_all_beat_constants(rows)]


def _teacher_beats_floor(rows: list[Row]) -> list[str]:
    pooled: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["vertical"] == POOLED and row["auc"] is not None:
            pooled[row["split"], row["task"]][row["role"]].append(row["auc"])
    lines = []
    for (split, task), auc in sorted(pooled.items()):
        if TEACHER in auc and FLOOR in auc:
            teacher, floor = fmean(auc[TEACHER]), fmean(auc[FLOOR])
            lines.append(
                f"{_word(teacher > floor)} {split} {task}: pooled AUC of the teacher {teacher:.4f}, "
                f"of the logistic regression on earlier days' rates {floor:.4f}"
            )
    return lines


def _all_beat_constants(rows: list[Row]) -> list[str]:
    losses: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["logloss"] is not None and row["constant_logloss"] is not None:
            losses[tuple(row[name] for name in _KEYS)].append((row["logloss"], row["constant_logloss"]))
    losers = []
    for key, of_seeds in sorted(losses.items()):
        loss, constant = (fmean(column) for column in zip(*of_seeds, strict=True))
        if loss >= constant:
            losers.append(
                f"{_word(False)} {' '.join(key)}: log-loss {loss:.4f}, of its constant {constant:.4f}"
            )
    return losers or [f"{_word(True)} every model beats the constant of its vertical and task"]


def _word(passed: bool) -> str:
    return "ok    " if passed else "BROKEN"
