"""Does the run make sense? The teacher must beat the floor, every model its constant."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from distill.cells import POOLED
from experiments.pipeline.floor import ROLE as FLOOR

Row = dict[str, Any]


def sanity_lines(rows: list[Row]) -> list[str]:
    """One line a check.

    Args:
        rows: of results.json.

    Returns:
        Lines that begin with `ok` or `BROKEN`.
    """
    return [*_teacher_beats_floor(rows), *_all_beat_constants(rows)]


def _teacher_beats_floor(rows: list[Row]) -> list[str]:
    lines = []
    for split, task in sorted({(row["split"], row["task"]) for row in rows if row["role"] == FLOOR}):
        same = [row for row in rows if (row["split"], row["task"], row["vertical"]) == (split, task, POOLED)]
        auc = {role: fmean(r["auc"] for r in same if r["role"] == role) for role in ("teacher", FLOOR)}
        word = "ok    " if auc["teacher"] > auc[FLOOR] else "BROKEN"
        lines.append(
            f"{word} {split} {task}: pooled AUC of the teacher {auc['teacher']:.4f}, "
            f"of the logistic regression on earlier days' rates {auc[FLOOR]:.4f}"
        )
    return lines


def _all_beat_constants(rows: list[Row]) -> list[str]:
    keys = ("role", "model", "vertical", "channel", "task", "split")
    losers = []
    scored = [row for row in rows if row["logloss"] is not None]
    for key in sorted({tuple(row[name] for name in keys) for row in scored}):
        same = [row for row in scored if tuple(row[name] for name in keys) == key]
        loss, constant = fmean(r["logloss"] for r in same), fmean(r["constant_logloss"] for r in same)
        if loss >= constant:
            losers.append(f"BROKEN {' '.join(key)}: log-loss {loss:.4f}, of its constant {constant:.4f}")
    return losers or ["ok     every model beats the constant of its vertical and task"]
