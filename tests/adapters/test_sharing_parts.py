"""What takes the place of the student's own: initial rows of its tables, and modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.checkpoint import save_model
from distill.errors import UserError
from tests.adapters.sharing_models import (
    FEATURES,
    make_shared,
    make_teacher,
    seen,
    train,
    write_snapshot,
)
from tests.students.models import array


def initial(**options: Any) -> Any:
    return make_shared(**{"copies": "initial", "projection": "none", **options})


@pytest.mark.parametrize("architecture", ["deepfm", "dlrm", "gem"])
def test_students_own_rows_become_the_teachers(architecture: str, tmp_path: Path) -> None:
    """Not those that the teacher never saw, nor the first-order weights beside DeepFM's."""
    student, channel = initial(architecture=architecture, width=8)
    assert channel.fields == ()
    before, teacher = student.tables.export(), make_teacher().tables.export()
    channel.begin_day(3, write_snapshot(tmp_path))
    after = student.tables.export()
    for feature in FEATURES:
        known, name = seen(feature), f"{feature}.weight"
        assert torch.equal(after[name][known, :8], teacher[name][known])
        assert torch.equal(after[name][known, 8:], before[name][known, 8:])
        assert torch.equal(after[name][~known], before[name][~known])


def test_only_the_named_tables(tmp_path: Path) -> None:
    student, channel = initial(width=8, tables=["item_id"])
    before = student.tables.export()
    channel.begin_day(3, write_snapshot(tmp_path))
    after = student.tables.export()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "item_id.weight",
        "item_id.momentum",
    }


@pytest.mark.parametrize("moments", [True, False])
def test_moments_are_the_teachers_or_none(moments: bool, tmp_path: Path) -> None:
    student, channel = initial(width=8, moments=moments)
    train(student, channel)
    own = student.tables.export()
    channel.begin_day(3, write_snapshot(tmp_path))
    after, teacher = student.tables.export(), make_teacher().tables.export()
    for name in (f"{feature}.momentum" for feature in FEATURES):
        known = seen(name.removesuffix(".momentum"))
        assert torch.equal(after[name][known], teacher[name][known] * moments)
        assert torch.equal(after[name][~known], own[name][~known])


def test_initial_rows_are_trained_on_and_not_copied_again(tmp_path: Path) -> None:
    student, channel = initial(width=8)
    channel.begin_day(3, write_snapshot(tmp_path, 1))
    train(student, channel)
    own = student.tables.export()
    channel.begin_day(4, write_snapshot(tmp_path, 2))
    assert all(torch.equal(own[name], tensor) for name, tensor in student.tables.export().items())
    teacher, known = make_teacher(1).tables.export(), seen("item_id")
    assert not torch.equal(own["item_id.weight"][known, :8], teacher["item_id.weight"][known])


def test_initial_rows_by_svd(tmp_path: Path) -> None:
    student, channel = initial(architecture="dlrm", width=4, projection="svd")
    channel.begin_day(3, write_snapshot(tmp_path))
    rows = array(make_teacher().tables.export()["item_id.weight"])[seen("item_id").numpy()]
    axes = np.linalg.svd(rows, full_matrices=False)[2][:4]
    axes *= np.sign([axis[np.abs(axis).argmax()] for axis in axes])[:, None]
    found = array(student.tables.export()["item_id.weight"])[seen("item_id").numpy()]
    np.testing.assert_allclose(found, rows @ axes.T, atol=1e-6)


def test_initial_rows_of_another_width(tmp_path: Path) -> None:
    student, channel = initial(width=4)
    before = student.tables.export()
    with pytest.raises(
        UserError, match="got 'none' for 'item_id' in .*, of width 8, and 4 in the student, allowed: svd"
    ):
        channel.begin_day(3, write_snapshot(tmp_path))
    assert all(torch.equal(before[name], tensor) for name, tensor in student.tables.export().items())


def modules(paths: dict[str, str], **options: Any) -> Any:
    settings: dict[str, Any] = {
        "architecture": "gem",
        "width": 8,
        "seed": 5,
        "copies": "none",
        "modules": paths,
    }
    return make_shared(**settings | options)


def test_a_gem_takes_gems_towers(tmp_path: Path) -> None:
    student, channel = modules({"towers": "towers", "trunk.shared": "trunk.shared"})
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    teacher = make_teacher().state_dict()
    channel.begin_day(3, write_snapshot(tmp_path))
    after = student.state_dict()
    taken = {name for name in after if name.startswith(("towers.", "trunk.shared."))}
    assert taken and all(torch.equal(after[name], teacher[name]) for name in taken)
    assert all(torch.equal(after[name], before[name]) for name in after.keys() - taken)
    assert not all(torch.equal(after[name], before[name]) for name in taken)


@pytest.mark.parametrize("frozen", [True, False])
def test_modules_are_frozen_or_free(frozen: bool, tmp_path: Path) -> None:
    student, channel = modules({"trunk.shared": "trunk.shared"}, freeze_modules=frozen)
    adam = torch.optim.AdamW(student.parameters(), lr=0.01)
    train(student, channel, adam=adam)
    channel.begin_day(3, write_snapshot(tmp_path, 1))
    train(student, channel, adam=adam)
    name = "trunk.shared.0.weight"
    assert torch.equal(student.state_dict()[name], make_teacher(1).state_dict()[name]) is frozen


def test_modules_are_copied_once_beside_tables_that_are_refreshed(tmp_path: Path) -> None:
    """Of a DeepFM, whose rows are of width 8 with their first-order weights."""
    teachers = [make_shared(seed=seed)[0] for seed in (1, 2)]
    student, channel = make_shared(modules={"deep": "deep"})
    for day, teacher in enumerate(teachers, start=1):
        save_model(teacher, tmp_path / f"{day}.safetensors", {})
        channel.begin_day(day, tmp_path / f"{day}.safetensors")
    own, first = student.state_dict(), teachers[0].state_dict()
    assert torch.equal(own["deep.0.weight"], first["deep.0.weight"])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ({"tower": "towers"}, "sharing.modules: got 'tower', allowed: .*towers.*Did you mean 'towers'"),
        (
            {"trunk.shred": "trunk"},
            "sharing.modules: got 'trunk.shred', allowed: .*trunk.shared. Did you mean",
        ),
        ({"tables": "tables"}, "sharing.modules: got 'tables', which holds embedding tables"),
    ],
)
def test_modules_that_the_student_has_not(paths: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        modules(paths)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tower", "sharing.modules.towers in .*: got 'tower', allowed: .*towers.*Did you mean 'towers'"),
        (
            "trunk.shred",
            "sharing.modules.towers in .*: got 'trunk.shred', allowed: .*trunk.shared. Did you mean",
        ),
        ("tables", "sharing.modules.towers in .*: got 'tables', allowed: dense, domain"),
        ("trunk", "sharing.modules.towers: got .* for .* in the teacher's 'trunk', allowed: "),
    ],
)
def test_modules_that_the_teacher_has_not(source: str, message: str, tmp_path: Path) -> None:
    student, channel = modules({"towers": source})
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with pytest.raises(UserError, match=message):
        channel.begin_day(3, write_snapshot(tmp_path))
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
