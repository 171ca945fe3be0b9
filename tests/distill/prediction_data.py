"""Predictions made up for tests: any users, any logits, written as a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill.cells import Cell, write_cells
from distill.predictions import SPLITS, CellPredictions, Predictions, prediction_path, write_predictions

STUDENT = Cell("demo", "deepfm", "student", "feed", "progressive", "thin", "direct", 1, "none")
TEACHER = Cell("demo", "gem", "teacher", "all", "progressive", "rich", "direct", 0, "none")


def predictions(logit: Any, label: Any, **columns: Any) -> Predictions:
    """Predictions of one task `click`; every other column has a default.

    Args:
        logit: [N].
        label: [N], -1 = unknown.
        columns: any of the others; `domain` and `split` by name, one for all rows or one per row.
    """
    n = len(np.atleast_1d(logit))
    domains = tuple(columns.pop("domains", ("feed", "reels")))
    domain = np.broadcast_to(columns.pop("domain", "feed"), n)
    split = np.broadcast_to(columns.pop("split", "tune"), n)
    filled: dict[str, Any] = {
        "example_id": np.arange(n),
        "user_id": np.arange(n),
        "timestamp": np.arange(n),
        "day": np.full(n, 9, np.int32),
        "domain": np.array([domains.index(name) for name in domain], np.int32),
        "split": np.array([SPLITS.index(name) for name in split], np.int8),
        "logits": {"click": np.asarray(logit, np.float32)},
        "labels": {"click": np.asarray(label, np.int8)},
    }
    return Predictions(domains=domains, **{**filled, **columns})


def write_run(folder: Path, of: Mapping[Cell, Mapping[int, Predictions]]) -> list[CellPredictions]:
    """A run folder with these predictions, cell -> seed -> rows."""
    for cell, seeds in of.items():
        for seed, rows in seeds.items():
            write_predictions(prediction_path(folder, cell, seed), rows)
    write_cells(folder / "cells.csv", of)
    return [CellPredictions(cell, folder) for cell in of]
