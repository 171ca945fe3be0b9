"""What decides about one training: everything that reaches it, and nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import experiments.catalog  # noqa: F401  fills the registries
from distill.load_config import load_config
from distill.sources.config import KUAIRAND_LOGS, KUAIRAND_USERS, KUAIRAND_VIDEOS
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


def hashes(folder: Path, seed: int = 0, **changes: Any) -> dict[str, str]:
    """Model, surface and channel set to the hash of what decides in a seed; `a__b` replaces b below a."""
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
    return {
        f"{cell.model} {cell.vertical} {cell.channel}": planned.settings_hash(cell, seed)
        for cell in planned.cells
    }


def differ(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Names of both that have another hash."""
    return {name for name in before.keys() & after.keys() if before[name] != after[name]}


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
    assert differ(before, after) == changed


def test_two_that_differ_in_name_alone_are_two(tmp_path: Path) -> None:
    found = hashes(tmp_path)
    assert len(set(found.values())) == len(found)


def test_a_start_trained_anew_is_another_one(tmp_path: Path) -> None:
    """Whatever its name is."""
    june, moved = tmp_path / "june", tmp_path / "moved"
    june.write_text("june")
    before = hashes(tmp_path, teacher__start=str(june))
    june.rename(moved)
    assert hashes(tmp_path, teacher__start=str(moved)) == before
    moved.write_text("june again")
    assert differ(before, hashes(tmp_path, teacher__start=str(moved))) == TEACHER | TAUGHT
    for_feed = hashes(tmp_path, domain_teachers__0__start=str(moved))
    moved.write_text("once more")
    after = hashes(tmp_path, domain_teachers__0__start=str(moved))
    assert differ(for_feed, after) == OF_FEED | {"below feed ah", "direct feed gated"}


def test_a_start_of_one_seed_decides_about_that_seed(tmp_path: Path) -> None:
    start = str(tmp_path / "start-{seed}")
    for seed in (0, 1):
        (tmp_path / f"start-{seed}").write_text(f"of {seed}")
    alone = hashes(tmp_path, seed=0, seeds=[0], teacher__start=start)
    first, second = (hashes(tmp_path, seed, seeds=[0, 1], teacher__start=start) for seed in (0, 1))
    assert first == alone, "a further seed changes nothing for the others"
    assert differ(first, second) == TEACHER | TAUGHT
    (tmp_path / "start-1").write_text("of 1, again")
    assert hashes(tmp_path, 0, seeds=[0, 1], teacher__start=start) == first
    assert differ(second, hashes(tmp_path, 1, seeds=[0, 1], teacher__start=start)) == TEACHER | TAUGHT


def test_what_was_said_of_a_start_stays_while_the_model_is_trained(tmp_path: Path) -> None:
    (tmp_path / "start-0").write_text("june")
    content = BASE | {"seeds": [0], "teacher": {"start": str(tmp_path / "start-{seed}")}}
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "planned.yaml").write_text(json.dumps(content))
    planned = Planned(load_config(tmp_path / "planned.yaml").config)
    assert planned.teacher_cell is not None
    before = planned.settings_hash(planned.teacher_cell, 0)
    (tmp_path / "start-0").write_text("june again")
    assert planned.settings_hash(planned.teacher_cell, 0) == before


@pytest.mark.parametrize("file", ["snapshot", "ids"])
def test_shared_files_enter_by_their_content(tmp_path: Path, file: str) -> None:
    for name in ("snapshot", "ids"):
        (tmp_path / name).write_text(name)
    vocabularies = {"item_id": {"teacher": str(tmp_path / "ids")}}
    channels = {"sharing": {"snapshot": str(tmp_path / "snapshot"), "vocabularies": vocabularies}}
    changes: dict[str, Any] = {"channels__shared": channels, "students__0__channels": ["none", "shared"]}
    before = hashes(tmp_path, **changes)
    (tmp_path / file).write_text("written anew")
    assert differ(before, hashes(tmp_path, **changes)) == {"direct feed shared", "direct search shared"}


PUBLISHED = {
    "demo": "4bced259944aa66acfa247b207b42466747f42bbbfef612e8284d66b4ecbf9f0",
    "kuairand": "eeb0c2deee75bfe3ce2264c703c37c5041aaaaf7259a87ea589ed14d963534d8",
    "simulator": "fce717eae6badfbe530fe4272a444f3878b505627f9c3d4fa533de598ef657b6",
    "surfaces_kuairand": "0b03ad37b7e9a8c12b8b40a3eb405b63efbebdd87e69efda35bbe54301e12ff4",
    "surfaces_simulator": "e56f9959397a01dd98db528ce6523ed2c78dc27dfb6c10a4e123cf63c525f8ce",
    "transfer_kuairand": "b8362c1758e112a837caa86a7092573447e3e56cad8753e8cfbd2a0b56531dfb",
    "transfer_simulator": "74b0d9b23627ad53888c80a5c6af39d74f1e14b60f6ed6bf210a5902db342ca1",
}
"""sha256 of the hashes of all models of an experiment, as its published run has them."""
CONFIGS = {
    "demo": "6649ba3246b6743ae78a8cba2160ba8974c65733440ba3877acfb312ba023217",
    "simulator": "62750482cb6ccf7921d6a51a5823f4a4640fb27e8b1f0fd51a9e414417ce9379",
    "surfaces_simulator": "4789972c0cf7a7dbcbfa4c68b301cfab9a4e0fc74316fc63730b7ef3ab824992",
    "transfer_simulator": "0e5c70b1cf714cf5bc63462bd24aa7aa2edc3e5de0ffcf6422b93b4566cf37a3",
}
"""Hash of all settings, where they name no folder of data."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs_keep_their_hashes(name: str, tmp_path: Path) -> None:
    """If this fails on purpose, every published training counts as another one from then on."""
    path = Path(__file__).parents[2] / "experiments" / f"{name}.yaml"
    for file in (*KUAIRAND_LOGS, KUAIRAND_USERS, KUAIRAND_VIDEOS):
        (tmp_path / file).touch()
    loaded = load_config(path, [f"data.root={tmp_path}"] if name.endswith("kuairand") else [])
    each = sorted(Planned(loaded.config).hashes.values())
    assert hashlib.sha256("".join(each).encode()).hexdigest() == PUBLISHED[name]
    assert loaded.config_hash == CONFIGS.get(name, loaded.config_hash)
