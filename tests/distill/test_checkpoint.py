"""A model on disk: the same predictions, the same training, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import pickletools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from distill.checkpoint import file_hash, load_model, save_model, start_model
from distill.config import OptimizerConfig
from distill.dataset import DataSet
from distill.errors import UserError
from distill.module import DistillModule
from distill.schema import FeatureSchema, SparseFeature
from tests.distill.full_disk import full_disk
from tests.distill.prepared_data import ITEMS, write_small
from tests.distill.tiny_training import Memory, Tiny, changed, days_of, one_by_one, state, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Three days of 10 rows."""
    return write_small(tmp_path_factory.mktemp("data") / "small", days=3)


@pytest.fixture(scope="module")
def model(data: DataSet) -> Tiny:
    """Trained, so that its moments are not zero."""
    model = Tiny(data.schema)
    train(model, data, one_by_one(3))
    return model


def one_step(model: Tiny, data: DataSet) -> None:
    """A step of plain gradient descent on the first batch of day 3, and the tables' own update."""
    batch = next(iter(days_of(data)(3, True)))
    DistillModule(model, {}, OptimizerConfig(), Memory()).training_step(batch, 0).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
            parameter.grad = None


def test_loaded_model_predicts_and_trains_on_as_the_saved_one(
    data: DataSet, model: Tiny, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "a" / "model.safetensors", {"trained_through": 2, "seed": 0})
    loaded = Tiny(data.schema, seed=5)
    assert load_model(loaded, tmp_path / "a" / "model.safetensors") == {"trained_through": 2, "seed": 0}
    batch = next(iter(days_of(data)(3, False)))
    assert torch.equal(model(batch).logits, loaded(batch).logits)
    saved = state(model)
    one_step(model, data)
    one_step(loaded, data)
    assert changed(state(model), state(loaded)) == set()
    assert {"tables.item_id.momentum", "tables.item_id.weight"} <= changed(saved, state(loaded))


def test_file_holds_plain_tensors_and_facts(model: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, {"trained_through": 2})
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {
            *(f"tables.{feature}.{part}" for feature in Tiny.features for part in ("weight", "momentum")),
            *("hidden.0.weight", "hidden.0.bias", "head.weight", "head.bias"),
        }
        assert json.loads(file.metadata()["facts"])["content"]["meta"] == {"trained_through": 2}
    with pytest.raises(ValueError):
        list(pickletools.genops(path.read_bytes()))


def test_hash_is_that_of_the_files_bytes(model: Tiny, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a.safetensors", {"day": 1})
    save_model(model, tmp_path / "b.safetensors", {"day": 1})
    expected = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert file_hash(tmp_path / "a.safetensors") == file_hash(tmp_path / "b.safetensors") == expected


class Wider(Tiny):
    def __init__(self, *args: object, **options: object):
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.head = nn.Linear(3, 5)


class Deeper(Tiny):
    def __init__(self, *args: object, **options: object):
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.extra = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        (Tiny, Wider, r"head\.bias: got \(2,\), allowed: \(5,\)"),
        (Tiny, Deeper, r"extra\.bias: got nothing, allowed: \(3,\)"),
        (Deeper, Tiny, r"extra\.bias: got \(3,\), allowed: nothing"),
    ],
)
def test_model_of_other_shapes_is_refused_by_the_tensors_name(
    data: DataSet, tmp_path: Path, saved: type[Tiny], loaded: type[Tiny], message: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(saved(data.schema), path, {})
    model = loaded(data.schema, seed=1)
    before = state(model)
    with pytest.raises(UserError, match=message):
        load_model(model, path)
    assert changed(before, state(model)) == set()


def test_missing_file_says_what_to_do(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file .*day-0001.safetensors. Train the model first"):
        load_model(Tiny(data.schema), tmp_path / "day-0001.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_file_is_named(data: DataSet, model: Tiny, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model\.safetensors: cut off or damaged"):
        load_model(Tiny(data.schema), path)


def test_full_disk_leaves_the_old_file_and_no_half_one(model: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, {"trained_through": 1})
    before = path.read_bytes()
    with (
        full_disk(),
        pytest.raises(UserError, match=r"model\.safetensors: the disk is full \(File too large\)"),
    ):
        save_model(model, path, {"trained_through": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def beside(seed: int, width: int = 4) -> dict[str, nn.Module]:
    """A channel with a parameter and a buffer, none of them zero."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    module(torch.randn(8, 3))
    return {"extra": module}


def test_channels_lie_in_the_same_file(data: DataSet, model: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, {"trained_through": 2}, beside(1))
    assert list(tmp_path.iterdir()) == [path]
    loaded, channels = Tiny(data.schema, seed=5), beside(2)
    assert load_model(loaded, path, channels) == {"trained_through": 2}
    assert changed(state(model), state(loaded)) == set()
    assert changed(state(beside(1)["extra"]), state(channels["extra"])) == set()


def test_no_channels_leave_no_trace_in_the_file(model: Tiny, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a.safetensors", {"day": 1})
    save_model(model, tmp_path / "b.safetensors", {"day": 1}, {})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_another_channel_changes_the_files_hash(model: Tiny, tmp_path: Path) -> None:
    hashes = set()
    for seed in (1, 2):
        save_model(model, tmp_path / "model.safetensors", {}, beside(seed))
        hashes.add(file_hash(tmp_path / "model.safetensors"))
    assert len(hashes) == 2


def test_model_alone_is_read_from_a_file_with_channels(data: DataSet, model: Tiny, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.safetensors", {}, beside(1))
    loaded = Tiny(data.schema, seed=5)
    load_model(loaded, tmp_path / "model.safetensors")
    assert changed(state(model), state(loaded)) == set()


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, r"channels\.extra\.0\.bias: got nothing, allowed: \(4,\)"),
        (beside(1, width=5), r"channels\.extra\.0\.bias: got \(5,\), allowed: \(4,\)"),
    ],
)
def test_channel_of_other_shapes_is_refused_by_the_tensors_name(
    data: DataSet, model: Tiny, tmp_path: Path, saved: dict[str, nn.Module], message: str
) -> None:
    save_model(model, tmp_path / "model.safetensors", {}, saved)
    loaded, channels = Tiny(data.schema, seed=5), beside(2)
    before = state(loaded) | state(channels["extra"])
    with pytest.raises(UserError, match=message):
        load_model(loaded, tmp_path / "model.safetensors", channels)
    assert changed(before, state(loaded) | state(channels["extra"])) == set()


def with_items(schema: FeatureSchema, items: int) -> FeatureSchema:
    return replace(schema, sparse={**schema.sparse, "item_id": SparseFeature("item_id", items, "item")})


def test_a_model_starts_where_another_ended_and_has_rows_for_new_ids(
    data: DataSet, model: Tiny, tmp_path: Path
) -> None:
    path = tmp_path / "day-0002.safetensors"
    save_model(model, path, {}, beside(1))
    grown, channels = Tiny(with_items(data.schema, ITEMS + 3), seed=5), beside(2)
    fresh = state(grown)
    start_model(grown, path, channels)
    found, saved = state(grown), state(model)
    for part, new in (("weight", fresh["tables.item_id.weight"][ITEMS:]), ("momentum", torch.zeros(3))):
        name = f"tables.item_id.{part}"
        assert torch.equal(found[name], torch.cat([saved[name], new]))
    assert changed(saved, found | {name: saved[name] for name in saved if "item_id" in name}) == set()
    assert changed(state(beside(1)["extra"]), state(channels["extra"])) == set()
    batch = next(iter(days_of(data)(3, False)))
    assert torch.equal(model(batch).logits, grown(batch).logits)


def test_a_channel_that_the_file_does_not_hold_begins_anew(
    data: DataSet, model: Tiny, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "a.safetensors", {})
    channels = beside(2)
    start_model(Tiny(data.schema), tmp_path / "a.safetensors", channels)
    assert changed(state(beside(2)["extra"]), state(channels["extra"])) == set()


def test_a_table_that_would_shrink_is_refused_by_name(data: DataSet, model: Tiny, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a.safetensors", {})
    smaller = Tiny(with_items(data.schema, ITEMS - 1))
    before = state(smaller)
    with pytest.raises(
        UserError, match=r"tables\.item_id\.\w+: got 7 rows .*at most 6.*give 'item_id' at least 7 values"
    ):
        start_model(smaller, tmp_path / "a.safetensors", {})
    assert changed(before, state(smaller)) == set()


def test_a_start_of_other_layers_is_refused_by_name(data: DataSet, tmp_path: Path) -> None:
    save_model(Wider(data.schema), tmp_path / "a.safetensors", {})
    with pytest.raises(UserError, match=r"head\.bias: got \(5,\), allowed: \(2,\)"):
        start_model(Tiny(with_items(data.schema, ITEMS + 1)), tmp_path / "a.safetensors", {})
