"""A tiny transfer study: two students on two surfaces, four slices; channel sets carry the protocol's names.

Whatever the sets are called, they are made of channels that cost nothing: what is tested is the study.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.experiments.tiny_experiment import EXPERIMENT, write_days, write_experiment

SEEDS = (0, 1)
VERTICALS = ("feed", "reels")
THIN: dict[str, Any] = EXPERIMENT["students"][0] | {"name": "thin"}
RICH: dict[str, Any] = THIN | {
    "name": "rich",
    "options": {"dim": 4, "mlp": [8], "history_length": 4},
    "channels": ["ah", "all"],
    "channel_optimizers": {"ah": {"batch_size": 25, "learning_rate": 0.01}},
}
SETS: dict[str, Any] = {
    "single": {"single": {}},
    "ah": {"ah": {"weight": 0.5}},
    "ah_adapter": {"ah": {"weight": 1.0}},
    "all": {"ah": {"weight": 2.0}},
}
DOMAIN: dict[str, Any] = {
    "name": "apps",
    "architecture": "deepfm",
    "verticals": ["feed", "reels"],
    "channel": "ah",
    "options": {"dim": 4, "mlp": [8]},
    "optimizer": {"batch_size": 50, "learning_rate": 0.01},
}
EXPERIMENT_CHANGES: dict[str, Any] = {
    "channels": SETS,
    "students": [THIN, RICH],
    "domain_teachers": [DOMAIN],
}
STUDY: dict[str, Any] = {
    "data": "tiny",
    "seeds": list(SEEDS),
    "small": ["reels"],
    "slices": {
        "fresh": {"channels": ["ah", "ah_adapter"], "set": {"schedule.lag": 0}},
        "below": {"channels": ["all"], "route": "hierarchical"},
        "frozen": {
            "channels": ["ah"],
            "set": {"schedule.kind": "frozen", "schedule.teacher_days": 2, "schedule.student_last_day": 5},
        },
    },
}


def write_study(folder: Path, base: Path, **changes: Any) -> Path:
    """`folder`/study.yaml, whose trainings go to `folder`/runs; `a__b` replaces b below a.

    Args:
        folder: to be made.
        base: its experiment file.
        changes: values replaced in STUDY.
    """
    content = json.loads(json.dumps(STUDY))
    content |= {"experiment": str(base), "output": str(folder / "runs")}
    content["table"] = str(folder / "transfer_tiny.csv")
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "study.yaml"


def write_base(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Data and the experiment of a study.

    Args:
        folder: gets `data`, `cache` and `base`.
        changes: of the experiment, on top of EXPERIMENT_CHANGES.

    Returns:
        Folder of the data; the experiment file.
    """
    data = write_days(folder / "data", rows=240)
    return data, write_experiment(folder / "base", data, folder / "cache", **(EXPERIMENT_CHANGES | changes))


SMALL: dict[str, Any] = {
    "channels": {"ah": {"ah": {}}, "all": {"ah": {"weight": 2.0}}},
    "students": [THIN | {"channels": ["ah"]}],
    "domain_teachers": [],
    "wandb": {"enabled": True, "project": "test"},
}
"""Experiment of a study that is over in no time: one student, `ah` alone."""

SMALL_STUDY: dict[str, Any] = {
    "seeds": [0],
    "small": [],
    "slices": {"fresh": {"channels": ["ah"], "set": {"schedule.lag": 0}}},
}
