"""Tables of a real GEM as fields of real students: when they are copied, what of them, what stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.sharing import Sharing
from adapters.sharing_config import SharingConfig, VocabularyConfig
from distill.checkpoint import file_hash, load_model, save_model
from distill.errors import UserError
from distill.protocols import Architecture
from distill.schema import SparseFeature
from tests.adapters.sharing_models import (
    FEATURES,
    NEVER,
    SCHEMA,
    batch_of,
    copies,
    make_shared,
    make_teacher,
    seen,
    train,
    write_snapshot,
)
from tests.students.models import array


def holds(student: Architecture, seed: int) -> bool:
    """Whether the rows that a teacher has seen are the copies, bit by bit."""
    teacher, own = make_teacher(seed).tables.export(), copies(student)
    return all(
        torch.equal(own[f"tables.{f}.weight"][seen(f)], teacher[f"{f}.weight"][seen(f)]) for f in FEATURES
    )


def test_without_names_it_copies_the_largest_table_of_the_users_and_that_of_the_items() -> None:
    sizes = {"level": (9, "user"), "user_id": (50, "user"), "item_id": (7, "item"), "author_id": (99, "item")}
    sparse = {name: SparseFeature(name, size, group) for name, (size, group) in sizes.items()}
    assert Sharing(SharingConfig(), replace(SCHEMA, sparse=sparse), 0).fields == (
        "sharing.user_id",
        "sharing.item_id",
    )
    nameless = {name: replace(feature, group="item") for name, feature in sparse.items()}
    assert Sharing(SharingConfig(), replace(SCHEMA, sparse=nameless), 0).fields == ("sharing.item_id",)


@pytest.mark.parametrize("architecture", ["deepfm", "dlrm", "dcn_v2", "din"])
def test_every_student_takes_the_tables_and_trains_around_them(architecture: str, tmp_path: Path) -> None:
    student, channel = make_shared(architecture)
    channel.begin_day(3, write_snapshot(tmp_path))
    train(student, channel)
    assert holds(student, 0)
    shared = student.inputs["sharing"]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in shared.parameters())


def test_channel_says_what_it_needs_and_gives(tmp_path: Path) -> None:
    _, channel = make_shared(tables=["item_id", "feature_2"])
    assert channel.needs == {"snapshot"} and not channel.touches_serving_head
    assert channel.fields == ("sharing.item_id", "sharing.feature_2")
    assert not list(channel.parameters()), "the student's are the student's"
    _, elsewhere = make_shared(snapshot=str(write_snapshot(tmp_path)))
    assert elsewhere.needs == set() and len(elsewhere.fields) == len(FEATURES)


def test_before_the_first_snapshot_the_fields_are_zero() -> None:
    student, channel = make_shared()
    channel.begin_day(1, None)
    train(student, channel)
    batch = batch_of()
    embedding = student(batch).taps["embedding"].view(6, 2 * len(FEATURES), -1)
    assert embedding[:, : len(FEATURES)].any() and not embedding[:, len(FEATURES) :].any()
    assert channel.loss(student(batch), batch, student)[1]["unseen"].item() == 1.0


def test_share_of_unseen_ids_is_logged_and_nothing_is_learnt_from_it(tmp_path: Path) -> None:
    student, channel = make_shared()
    channel.begin_day(3, write_snapshot(tmp_path))
    batch = batch_of()
    loss, logs = channel.loss(student(batch), batch, student)
    ids = {feature: batch.sparse[feature].values().tolist() for feature in FEATURES}
    unseen = sum(i in NEVER[feature] for feature, found in ids.items() for i in found)
    assert loss.item() == 0 and unseen and logs["unseen"].item() == pytest.approx(unseen / 18)


def test_refreshed_copies_are_the_days_and_keep_what_was_learnt(tmp_path: Path) -> None:
    student, channel = make_shared()
    channel.begin_day(3, write_snapshot(tmp_path, 1))
    train(student, channel)
    before = copies(student)
    channel.begin_day(4, write_snapshot(tmp_path, 2))
    assert holds(student, 2) and not holds(student, 1)
    kept = [name for name in before if not name.startswith("tables.")]
    assert all(torch.equal(before[name], copies(student)[name]) for name in kept)


@pytest.mark.parametrize("kind", ["frozen", "trained"])
def test_other_copies_are_made_once(kind: str, tmp_path: Path) -> None:
    student, channel = make_shared(copies=kind)
    channel.begin_day(3, write_snapshot(tmp_path, 1))
    channel.begin_day(4, write_snapshot(tmp_path, 2))
    assert holds(student, 1)
    train(student, channel)
    assert holds(student, 1) is (kind == "frozen")


def test_slow_copies_move_by_their_own_learning_rate(tmp_path: Path) -> None:
    path, moved = write_snapshot(tmp_path), []
    for rate in (0.001, 0.01):
        student, channel = make_shared(copies="trained", table_learning_rate=rate)
        channel.begin_day(3, path)
        before = copies(student)["tables.item_id.weight"]
        train(student, channel, steps=1)
        moved.append((copies(student)["tables.item_id.weight"] - before)[seen("item_id")].double())
    assert moved[0].any()
    torch.testing.assert_close(10 * moved[0], moved[1], rtol=1e-2, atol=1e-7)


def test_first_day(tmp_path: Path) -> None:
    student, channel = make_shared(first_day=5, copies="frozen")
    channel.begin_day(4, write_snapshot(tmp_path, 1))
    assert not copies(student)["filled"]
    channel.begin_day(5, write_snapshot(tmp_path, 2))
    assert holds(student, 2)


def test_a_day_begun_twice_is_copied_once(tmp_path: Path) -> None:
    student, channel = make_shared(copies="trained", table_learning_rate=0.1)
    path = write_snapshot(tmp_path)
    channel.begin_day(3, path)
    train(student, channel)
    channel.begin_day(3, path)
    assert not holds(student, 0)


def test_svd_fields_by_hand_also_after_a_refresh(tmp_path: Path) -> None:
    student, channel = make_shared(projection="svd")
    batch = batch_of()
    paths = [write_snapshot(tmp_path, seed) for seed in (1, 2)]
    first = make_teacher(1).tables.export()
    for day, path in enumerate(paths, start=1):
        channel.begin_day(day, path)
        now = make_teacher(day).tables.export()
        fields = array(student.inputs["sharing"](batch, torch.zeros(0)))
        for place, feature in enumerate(FEATURES):
            known, ids = seen(feature).numpy(), batch.sparse[feature].values().numpy()
            axes = np.linalg.svd(array(first[f"{feature}.weight"])[known], full_matrices=False)[2][:4]
            axes *= np.sign([axis[np.abs(axis).argmax()] for axis in axes])[:, None]
            rows = array(now[f"{feature}.weight"])[ids] * known[ids, None]
            np.testing.assert_allclose(fields[:, place, : len(axes)], rows @ axes.T, atol=1e-5)


def with_vocabulary(files: dict[str, str], **options: Any) -> Any:
    return make_shared(vocabularies={"item_id": VocabularyConfig(**files)}, **options)


def test_ids_of_another_vocabulary_are_matched_by_value(tmp_path: Path) -> None:
    """The teacher knows the student's items in another order, one of its own, and not all."""
    of_student = np.array([f"video-{row}" for row in range(7)])
    of_teacher = of_student[[6, 2, 0, 5, 3, 1, 4]]
    of_teacher[4] = "another"  # in the place of video-3
    np.save(tmp_path / "teacher.npy", of_teacher)
    np.save(tmp_path / "student.npy", of_student)
    files = {"teacher": str(tmp_path / "teacher.npy"), "student": str(tmp_path / "student.npy")}
    path = write_snapshot(tmp_path)
    student, channel = with_vocabulary(files, snapshot=str(path), tables=["item_id"])
    channel.begin_day(1, None)
    teacher, own = make_teacher(0).tables.export()["item_id.weight"], copies(student)
    for row, value in enumerate(of_student):
        places = np.flatnonzero(of_teacher == value)
        known = len(places) == 1 and places[0] not in NEVER["item_id"]
        assert own["unseen"][row].item() == (not known)
        expected = teacher[places[0]] if known else torch.zeros(8)
        assert torch.equal(own["tables.item_id.weight"][row], expected)
    assert own["unseen"].sum() == 3


def test_vocabulary_of_another_length_than_the_teachers_table(tmp_path: Path) -> None:
    np.save(tmp_path / "teacher.npy", np.arange(9))
    np.save(tmp_path / "student.npy", np.arange(7))
    files = {"teacher": str(tmp_path / "teacher.npy"), "student": str(tmp_path / "student.npy")}
    _, channel = with_vocabulary(files, tables=["item_id"])
    with pytest.raises(
        UserError,
        match="'item_id': got 7 rows in .*, allowed: 9, one for each value of vocabularies.item_id.teacher",
    ):
        channel.begin_day(1, write_snapshot(tmp_path))


@pytest.mark.parametrize("kind", ["refreshed", "trained"])
@pytest.mark.parametrize("projection", ["learned", "svd"])
def test_saved_student_stands_alone(kind: str, projection: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"copies": kind, "projection": projection, "table_learning_rate": 0.1}
    student, channel = make_shared(**options)
    path = write_snapshot(tmp_path)
    channel.begin_day(3, path)
    train(student, channel)
    save_model(student, tmp_path / "student.safetensors", {})
    path.unlink()
    loaded, _ = make_shared(seed=9, **options)
    load_model(loaded, tmp_path / "student.safetensors")
    assert torch.equal(loaded(batch_of(7)).logits, student(batch_of(7)).logits)


def test_teachers_file_is_left_alone(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path, dim=4)
    before = file_hash(path)
    kinds: list[dict[str, Any]] = [{"copies": "trained"}, {"copies": "initial", "projection": "none"}]
    for options in kinds:
        student, channel = make_shared(dim=4, table_learning_rate=0.1, **options)
        channel.begin_day(3, path)
        train(student, channel)
    assert file_hash(path) == before


def test_seed_decides_the_projection() -> None:
    torch.manual_seed(1)
    first = copies(make_shared(seed=3)[0])["projection.weight"]
    torch.manual_seed(2)
    assert torch.equal(copies(make_shared(seed=3)[0])["projection.weight"], first)
    assert not torch.equal(copies(make_shared(seed=4)[0])["projection.weight"], first)


def test_width_of_the_snapshot_is_checked(tmp_path: Path) -> None:
    _, channel = make_shared(dim=16)
    with pytest.raises(UserError, match="sharing.dim: got 16, allowed: 8, the width of 'item_id' in"):
        channel.begin_day(3, write_snapshot(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 16}, "sharing.dim: got 16, allowed: 8, the width of 'item_id' in the teacher 'large'"),
        (
            {"copies": "initial"},
            "sharing.projection: got 'none' for 'item_id' in the teacher 'large', of width 8, and 4",
        ),
        (
            {"copies": "none", "modules": {"deep": "tower"}},
            "sharing.modules.deep in the teacher 'large': got 'tower', allowed: .*Did you mean 'towers'",
        ),
        (
            {"copies": "none", "modules": {"deep": "towers"}},
            "sharing.modules.deep: got .* in the teacher's 'towers'",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_it_is_trained(
    options: dict[str, Any], message: str
) -> None:
    _, channel = make_shared(**options)
    with pytest.raises(UserError, match=message):
        channel.check_teacher(make_teacher(), "large")


def test_the_width_of_a_deepfm_teacher_is_that_of_its_rows() -> None:
    teacher = make_shared(width=4)[0]  # two tasks: their first-order weights make rows of 8
    make_shared(dim=8)[1].check_teacher(teacher, "large")
    with pytest.raises(UserError, match="sharing.dim: got 4, allowed: 8"):
        make_shared(dim=4)[1].check_teacher(teacher, "large")


def test_a_table_that_the_teacher_lacks_is_refused_before_it_is_trained() -> None:
    teacher = make_shared(features=["item_id"], tables=["item_id"])[0]
    with pytest.raises(
        UserError, match="got 'feature_1', allowed: item_id, the tables in the teacher 'large'"
    ):
        make_shared()[1].check_teacher(teacher, "large")


def test_equal_widths_are_asked_for() -> None:
    with pytest.raises(UserError, match="sharing.projection: got 'none' .* width 8 and a student of width 4"):
        make_shared(projection="none")


def test_features_that_somebody_lacks(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="sharing.tables: got 'item', allowed: item_id, .*Did you mean 'item_id'"
    ):
        make_shared(tables=["item"])
    with pytest.raises(
        UserError, match="sharing.tables: got 'feature_1', allowed: item_id, feature_2, which the stu"
    ):
        make_shared(features=["item_id", "feature_2"])
    student, channel = make_shared()
    save_model(
        make_shared(features=["item_id"], tables=["item_id"], width=8)[0], tmp_path / "a.safetensors", {}
    )
    with pytest.raises(UserError, match="sharing.tables: got 'feature_1', allowed: item_id, the tables in"):
        channel.begin_day(3, tmp_path / "a.safetensors")
    assert not copies(student)["filled"]


def test_snapshot_that_is_missing_or_damaged(tmp_path: Path) -> None:
    _, channel = make_shared()
    with pytest.raises(UserError, match="sharing: no snapshot .*Train the teacher first"):
        channel.begin_day(3, tmp_path / "nowhere.safetensors")
    path = write_snapshot(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="safetensors: cut off or damaged .*Remove it"):
        channel.begin_day(3, path)
