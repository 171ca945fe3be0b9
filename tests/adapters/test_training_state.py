"""What channels remember beside their parameters goes on in another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.sharing import Sharing
from distill.channel_config import PrivilegedFeaturesConfig
from distill.pfd import PrivilegedFeatures
from distill.protocols import Architecture
from experiments.benchmarks.synthetic import make_schema
from tests.adapters.sharing_models import make_shared, train, write_snapshot


def go_on(student: Architecture, channel: Sharing, **options: Any) -> tuple[Architecture, Sharing]:
    """Student and channel of a fresh process that took over."""
    student_again, channel_again = make_shared(seed=5, **options)
    student_again.load_state_dict(student.state_dict())
    channel_again.load_training_state(channel.training_state())
    return student_again, channel_again


@pytest.mark.parametrize("kind", ["initial", "refreshed", "trained"])
def test_tables_are_not_copied_again_on_the_same_day(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"copies": kind, "width": 8}
    student, channel = make_shared(**options)
    snapshot = write_snapshot(tmp_path, 1)
    channel.begin_day(3, snapshot)
    train(student, channel)
    expected = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    student_again, channel_again = go_on(student, channel, **options)
    channel_again.begin_day(3, snapshot)
    found = student_again.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_before_the_first_snapshot_nothing_is_remembered(tmp_path: Path) -> None:
    student, channel = make_shared()
    student_again, channel_again = go_on(student, channel)
    before = student_again.inputs["sharing"].state_dict()["tables.item_id.weight"].clone()
    channel_again.begin_day(3, write_snapshot(tmp_path, 1))
    assert not torch.equal(before, student_again.inputs["sharing"].state_dict()["tables.item_id.weight"])


def test_copied_modules_stay_frozen(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "architecture": "gem",
        "width": 8,
        "copies": "none",
        "modules": {"trunk.shared": "trunk.shared"},
        "freeze_modules": True,
    }
    student, channel = make_shared(**options)
    channel.begin_day(3, write_snapshot(tmp_path, 1))
    student_again, _ = go_on(student, channel, **options)
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert frozen == {n for n, parameter in student_again.named_parameters() if not parameter.requires_grad}


def test_warm_up_counts_on() -> None:
    config = PrivilegedFeaturesConfig(warmup_examples=10)
    schema = make_schema([7])
    first, second = PrivilegedFeatures(config, schema), PrivilegedFeatures(config, schema)
    first.examples = 8
    second.load_training_state(first.training_state())
    assert second.examples == 8
