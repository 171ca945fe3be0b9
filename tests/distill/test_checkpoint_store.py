"""Checkpoints on disk: whole or not there, damaged ones named, room made for later ones, nothing pickled."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from distill.checkpoints.store import CheckpointStore, Facts, Found
from distill.checkpoints.tree import put_together, take_apart
from distill.errors import UserError
from tests.distill.full_disk import full_disk

IDENTITY = {"config_hash": "a", "train": (1, 2)}


def store_in(folder: Path, keep: int = 2, **identity: Any) -> CheckpointStore:
    return CheckpointStore(folder, IDENTITY | identity, keep)


def write(store: CheckpointStore, step: int, loss: float = 1.0) -> Path:
    """A checkpoint whose states say which step it is of."""
    training = {"weight": torch.full((3,), step), "step": step}
    return store.write(
        Facts(step, day=1, batches=step, loss=loss), training, {"seen": torch.tensor(step)}, {}
    )


def newest(store: CheckpointStore) -> Found:
    found = store.newest()
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


IDS = np.arange(6)
STATE: dict[Any, Any] = {
    "weights": {"a.b": torch.randn(2, 3), "empty": torch.empty(0, 4), "number": torch.tensor(3.5)},
    0: {"step": torch.tensor(2), "betas": (0.9, 0.999)},
    "kinds": [torch.tensor([True, False]), torch.randn(2, dtype=torch.float64), None, True, "text", 1e-300],
    "half": torch.randn(5).bfloat16(),
    "bytes": torch.get_rng_state(),
    "array": np.arange(4, dtype=np.uint32),
    "view": torch.arange(6).view(2, 3).t(),
    "one memory": [IDS, IDS, IDS[2:]],
}


def assert_equal(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_equal(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        for one, other in zip(got, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        assert got.dtype == expected.dtype and torch.equal(got, expected)
    elif isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype and np.array_equal(got, expected)
    else:
        assert got == expected


def test_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    facts = Facts(step=7, day=2, batches=3, loss=0.25)
    store.write(facts, STATE, {"empty": {}}, {"of": "this process"})
    found = newest(store_in(tmp_path))
    assert found.facts == facts and found.metrics == {"empty": {}}
    assert found.own == [{"of": "this process"}]
    assert_equal(found.training, STATE)


def test_what_is_no_state_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match="state/channels/1: got set, allowed"):
        take_apart({"channels": [1, {2}]})
    with pytest.raises(TypeError, match=r"state/a: got the key \(1,\), allowed"):
        take_apart({"a": {(1,): 2}})


def test_mappings_that_look_like_tensors_are_mappings() -> None:
    state = {"tensor": "x", "tuple": [1], "mapping": {}}
    tree, tensors = take_apart(state)
    assert put_together(tree, tensors) == state and not tensors


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store_in(tmp_path), 1)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                assert list(file.keys())

    def refuse(*unused: Any, **also: Any) -> None:
        raise AssertionError("a pickle is loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert newest(store_in(tmp_path)).facts.step == 1


def test_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    store = store_in(tmp_path, keep=2)
    for step, loss in enumerate([3.0, 1.0, 2.0, 5.0, 4.0], start=1):
        write(store, step, loss)
    assert names(tmp_path) == ["step-0000000002", "step-0000000004", "step-0000000005"]


def test_no_checkpoint(tmp_path: Path) -> None:
    assert store_in(tmp_path / "none").newest() is None


def test_those_of_another_training_are_removed(tmp_path: Path) -> None:
    write(store_in(tmp_path), 5)
    assert store_in(tmp_path, config_hash="b").newest() is None
    assert names(tmp_path) == []


@pytest.mark.parametrize("part", ["training", "metrics"])
@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_flipped_byte_is_named_and_the_one_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: str, suffix: str
) -> None:
    store = store_in(tmp_path)
    write(store, 1)
    (file,) = (write(store, 2) / part).glob(f"*{suffix}")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert newest(store).facts.step == 1
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("distill")]
    assert f"step-0000000002: damaged (the checksum of {part}/{file.name} is not" in message
    write(store, 2)  # in its place
    assert newest(store).facts.step == 2


@pytest.mark.parametrize("damage", ["removed", "cut", "foreign", "fact"])
def test_other_damage(tmp_path: Path, damage: str) -> None:
    store = store_in(tmp_path)
    write(store, 1)
    path = write(store, 2)
    manifest, (tensors,) = path / "manifest.json", (path / "training").glob("*.safetensors")
    if damage == "removed":
        tensors.unlink()
    elif damage == "cut":
        manifest.write_bytes(manifest.read_bytes()[:-20])
    elif damage == "foreign":
        (path / "training" / "more.safetensors").write_bytes(b"")
    else:
        manifest.write_text(manifest.read_text().replace('"step": 2', '"step": 3'))
    assert newest(store).facts.step == 1


def test_all_damaged(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    (write(store, 1) / "manifest.json").write_text("{}")
    assert store.newest() is None


def test_what_was_killed_half_way_is_no_checkpoint(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    write(store, 1)
    half = write(store, 2)
    (half / "manifest.json").unlink()  # as a killed removal leaves it
    half.rename(tmp_path / ".step-0000000003.abc.partial")  # as a killed writer leaves it
    assert newest(store).facts.step == 1


def test_full_disk_leaves_what_there_was(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    write(store, 1)
    big = {"weight": torch.zeros(10_000)}
    with (
        full_disk(),
        pytest.raises(UserError, match=r"step-0000000002: the disk is full .* repeat the command"),
    ):
        store.write(Facts(2, 1, 2, 1.0), big, {}, {})
    assert names(tmp_path) == ["step-0000000001"] and newest(store).facts.step == 1
