"""A tiny experiment on data of one's own: three surfaces, two of them verticals, two tasks, the second one late."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DOMAINS = ("feed", "reels", "stories")
VERTICALS = ("feed", "reels")
TASKS = ("click", "order")
USERS, ITEMS = 240, 60
HOUR = 3_600_000
START = 1_767_225_600_000

EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0, 1],
    "teacher": {
        "options": {
            "dim": 8,
            "history_length": 6,
            "layers": 1,
            "wukong": {"fm_tokens": 2, "linear_tokens": 2, "rank": 2},
            "mlp": [16],
            "dropout": 0.1,
        },
        "optimizer": {"batch_size": 100, "learning_rate": 0.01},
    },
    "channels": {"single": {"single": {}}, "ah": {"ah": {"weight": 0.5}}},
    "students": [
        {
            "name": "small",
            "architecture": "deepfm",
            "verticals": ["feed", "reels"],
            "options": {"dim": 4, "mlp": [8]},
            "optimizer": {"batch_size": 50, "learning_rate": 0.01},
        },
        {
            "name": "clicks",
            "architecture": "din",
            "verticals": ["feed"],
            "tasks": ["click"],
            "channels": ["ah"],
            "options": {"dim": 4, "mlp": [8], "attention": [4], "history_length": 5},
            "optimizer": {"batch_size": 50},
        },
    ],
    "schedule": {"tune_days": [4, 5], "test_days": [6]},
    "floor": True,
    "wandb": {"enabled": False},
    "workers": 1,
}
"""Teacher, two students in eight cells, two seeds; the test day is day 6."""


def write_days(
    root: Path, days: int = 6, rows: int = 900, without: tuple[str, int] | None = None, before: int = 0
) -> Path:
    """A folder as the source `parquet` reads it.

    Args:
        root: to be made.
        days: number of days.
        rows: of each day.
        without: a surface and a day on which it has no rows.
        before: days of January that are over when the first one begins; the rows are the same on other dates.
    """
    random = np.random.default_rng(0)
    user_taste, item_taste = random.normal(size=(USERS, 4)), random.normal(size=(ITEMS, 4))
    for day in range(1, days + 1):
        user, item = random.integers(0, USERS, rows), random.integers(0, ITEMS, rows)
        domain = random.integers(0, 3, rows)
        if without is not None and without[1] == day:
            domain[domain == DOMAINS.index(without[0])] = DOMAINS.index("stories")
        time = START + (before + day - 1) * 24 * HOUR + np.sort(random.integers(0, 24 * HOUR, rows))
        logit = np.array([-0.4, 0.2, -1.0])[domain] + (user_taste[user] * item_taste[item]).sum(1)
        click = random.random(rows) < 1 / (1 + np.exp(-logit))
        order = click & (random.random(rows) < 0.5)
        folder = root / f"date=2026-01-{before + day:02d}"
        folder.mkdir(parents=True)
        table = {
            "example_id": np.arange(rows) + day * 100_000,
            "user_id": user,
            "timestamp": time,
            "domain": pa.array(np.array(DOMAINS)[domain]),
            "item_id": item,
            "price": random.normal(size=rows).astype(np.float32),
            "label_click": click.astype(np.int8),
            "label_order": order.astype(np.int8),
            "matures_order": time + np.where(order, random.integers(0, 4 * HOUR, rows), 4 * HOUR),
        }
        pq.write_table(pa.table(table), folder / "rows.parquet")
    (root / "schema.yaml").write_text(yaml.safe_dump(schema_of(days, before), sort_keys=False))
    return root


def schema_of(days: int, before: int = 0) -> dict[str, Any]:
    """The content of schema.yaml."""
    return {
        "name": "tiny",
        "domains": list(DOMAINS),
        "verticals": list(VERTICALS),
        "tasks": {"click": {}, "order": {"window_ms": 4 * HOUR}},
        "sparse": {"user_id": {"size": USERS, "group": "user"}, "item_id": {"size": ITEMS, "group": "item"}},
        "dense": ["price"],
        "history": {"item": "item_id"},
        "days": [
            {"date": f"2026-01-{day:02d}", "end_ms": START + day * 24 * HOUR}
            for day in range(before + 1, before + days + 1)
        ],
    }


def write_experiment(folder: Path, data: Path, cache: Path, **changes: Any) -> Path:
    """`folder`/tiny.yaml, whose run goes to `folder`/out.

    Args:
        folder: to be made.
        data: what `write_days` wrote.
        cache: folder of prepared data sets.
        changes: values replaced in EXPERIMENT; `a__b` replaces b below a.
    """
    content = copy.deepcopy(EXPERIMENT)
    content["output"] = str(folder / "out")
    content["data"] = {"source": "parquet", "root": str(data), "cache": str(cache)}
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    content = json.loads(
        json.dumps(content)
    )  # parts used twice are written twice: the YAML allows no anchors
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "tiny.yaml"


def raw_rows(data: Path, day: int) -> dict[str, np.ndarray]:
    """Columns of a day as they were written."""
    table = pq.read_table(data / f"date=2026-01-{day:02d}" / "rows.parquet", partitioning=None)
    return {name: table[name].to_numpy() for name in table.column_names}
