"""What decides about one training: everything that reaches it, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import experiments.catalog  # noqa: F401  fills the registries
from distill.load_config import load_config
from experiments.pipeline.experiment import Planned

NET = "class Net:\n    pass\n"
STUDENT: dict[str, Any] = {"verticals": ["feed", "search"], "channels": ["none", "ah", "gated"]}
BASE: dict[str, Any] = {
    "name": "planned",
    "output": "out",
    "data": {"source": "simulator"},
    "teacher": {"architecture": "gem"},
    "domain_teachers": [
        {"name": "feed_teacher", "architecture": "gem", "verticals": ["feed"], "channel": "ah"},
        {"name": "search_teacher", "architecture": "gem", "verticals": ["search"], "channel": "ah"},
    ],
    "students": [
        STUDENT | {"name": "direct"},
        STUDENT | {"name": "below", "route": "hierarchical", "channels": ["none", "ah"]},
        STUDENT | {"name": "own", "architecture": "net.py:Net", "channels": ["none"]},
    ],
    "channels": {"ah": {"ah": {}}, "gated": {"gated": {}}},
}
NONE_OF_THEM: set[str] = set()
TEACHER = {"gem all none"}
OF_FEED = {"feed_teacher feed ah"}
AH = {f"{name} {vertical} ah" for name in ("direct", "below") for vertical in ("feed", "search")}
GATED = {"direct feed gated", "direct search gated"}
DIRECT = {
    f"direct {vertical} {channel}" for vertical in STUDENT["verticals"] for channel in STUDENT["channels"]
}
OWN = {"own feed none", "own search none"}
UNTAUGHT = OWN | {
    f"{name} {vertical} none" for name in ("direct", "below") for vertical in ("feed", "search")
}
TAUGHT = AH | GATED | OF_FEED | {"search_teacher search ah"}


def hashes(folder: Path, **changes: Any) -> dict[str, str]:
    """Model, surface and channel set to the hash of what decides; `a__b` replaces b below a."""
    content = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner: Any = content
        for parent in parents:
            inner = inner[int(parent) if parent.isdecimal() else parent]
        inner[last] = value
    (folder / "net.py").write_text(content.pop("net", NET))
    # YAML is read without anchors, and JSON, which has none, is YAML.
    (folder / "planned.yaml").write_text(json.dumps(content))
    planned = Planned(load_config(folder / "planned.yaml").config)
    return {f"{cell.model} {cell.vertical} {cell.channel}": of for cell, of in planned.hashes.items()}


@pytest.mark.parametrize(
    "changes,changed",
    [
        ({"output": "elsewhere", "seeds": [0, 1, 2], "workers": 3, "bank": 8, "floor": True}, NONE_OF_THEM),
        ({"wandb": {"enabled": False}, "checkpoint": {"keep": 3}, "data__cache": "there"}, NONE_OF_THEM),
        ({"sharding": {"tables": "table_wise"}}, NONE_OF_THEM),
        ({"channels__fresh": {"single": {}}}, NONE_OF_THEM),
        ({"students__0__options": {"dim": 8}}, DIRECT),
        ({"students__0__verticals": ["feed"]}, NONE_OF_THEM),
        (
            {"students__0__channel_optimizers": {"ah": {"batch_size": 64}}},
            {"direct feed ah", "direct search ah"},
        ),
        ({"channels__gated": {"gated": {"weight": 0.5}}}, GATED),
        ({"channels__ah": {"ah": {"weight": 0.5}}}, TAUGHT),
        ({"domain_teachers__0__options": {"dim": 8}}, OF_FEED | {"below feed ah", "direct feed gated"}),
        ({"teacher__options": {"dim": 8}}, TEACHER | TAUGHT),
        ({"schedule": {"lag": 2}}, TAUGHT),
        ({"schedule": {"tune_days": [11]}}, TEACHER | TAUGHT | UNTAUGHT),
        ({"data__options": {"users": 100}}, TEACHER | TAUGHT | UNTAUGHT),
        ({"threads": 2}, TEACHER | TAUGHT | UNTAUGHT),
        ({"net": NET + "\n"}, OWN),
    ],
)
def test_what_changes_whose_hash(tmp_path: Path, changes: dict[str, Any], changed: set[str]) -> None:
    before = hashes(tmp_path)
    after = hashes(tmp_path, **changes)
    assert {name for name in before.keys() & after.keys() if before[name] != after[name]} == changed


def test_two_that_differ_in_name_alone_are_two(tmp_path: Path) -> None:
    found = hashes(tmp_path)
    assert len(set(found.values())) == len(found)
