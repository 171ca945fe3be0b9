"""Representation transfer and its control `current`: what is asked for, what the fields hold, who trains them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.representation_config import CurrentConfig, StoredRepresentationsConfig
from distill.batch import Batch
from distill.errors import ConfigErrors, UserError
from distill.fields import field_help
from distill.load_config import load_config
from distill.past import PastRequest
from distill.registry import CHANNELS
from experiments.benchmarks.synthetic import make_batch
from tests.adapters.built_students import DIM, KINDS, SCHEMA, built, given, items, optimized, train
from tests.adapters.past_data import array, encoded, make_past, scramble, with_representation

ENCODERS = ("mean", "sum", "din", "target_attention")
WIDTH = 6
OF_USER, OF_ITEM = [3, 0, 1, 4, 2], [1, 1, 0, 0, 1]


def batch_of(seed: int = 0) -> Batch:
    """Five examples with the past of their users and items, and the teacher's representations of themselves."""
    batch = make_batch(SCHEMA, [2, 0, 1, 4, 3], seed)
    past = {
        "user": make_past(batch.timestamp, OF_USER, WIDTH, seed),
        "item": make_past(batch.timestamp, OF_ITEM, WIDTH, seed + 1),
    }
    return with_representation(replace(batch, past=past), WIDTH, seed)


def options(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"repr": {"group": "both", "dim": WIDTH, "history_length": 4, **changes}}


@pytest.mark.parametrize(
    ("group", "fields", "request_"),
    [
        ("user", ("repr.user",), PastRequest(7, False, "none", "fp16", 2.0)),
        ("item", ("repr.item",), PastRequest(0, True, "none", "fp16", 2.0)),
        ("both", ("repr.user", "repr.item"), PastRequest(7, True, "none", "fp16", 2.0)),
    ],
)
def test_what_it_asks_for(group: str, fields: tuple[str, ...], request_: PastRequest) -> None:
    settings = {
        "group": group,
        "history_length": 7,
        "alignment": "none",
        "codec": "fp16",
        "half_life_days": 2.0,
    }
    _, channels = built("deepfm", {"repr": settings})
    channel = channels["repr"]
    assert (channel.fields, channel.past) == (fields, request_)
    assert not channel.needs and not channel.history_length and not channel.touches_serving_head


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_fields_reach_every_architecture(kind: str, encoder: str) -> None:
    student, _ = built(kind, options(encoder=encoder))
    fields: Any = student.inputs["repr"]
    scramble(fields)
    batch = batch_of()
    item = array(items(student, batch))
    of_user = encoded(fields.encoders["user"], encoder, batch.past["user"], batch.timestamp, item, 4)
    of_item = encoded(fields.encoders["item"], "mean", batch.past["item"], batch.timestamp, item, 1)
    np.testing.assert_allclose(
        array(given(student, batch)), np.stack([of_user, of_item], axis=1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", ["user", "item"])
def test_logits_depend_on_the_past(kind: str, group: str) -> None:
    student, _ = built(kind, options())
    scramble(student.inputs)
    batch = batch_of()
    other = {
        **batch.past,
        group: make_past(batch.timestamp, {"user": OF_USER, "item": OF_ITEM}[group], WIDTH, 9),
    }
    before, after = student(batch).logits, student(replace(batch, past=other)).logits
    known = torch.tensor({"user": OF_USER, "item": OF_ITEM}[group]) > 0
    assert (before != after).any(1).tolist() == known.tolist()


def test_a_prefix_of_the_representation_is_enough() -> None:
    student, _ = built("deepfm", options(dim=2))
    batch = batch_of()
    cut = {name: replace(past, values=past.values[:, :2]) for name, past in batch.past.items()}
    assert torch.equal(student(batch).logits, student(replace(batch, past=cut)).logits)
    with pytest.raises(AssertionError, match="width 6, wanted 7"):
        built("deepfm", options(dim=7))[0](batch)


def test_loss_is_nothing_and_says_how_many_have_no_past() -> None:
    student, channels = built("deepfm", options())
    batch = batch_of()
    loss, logs = channels["repr"].loss(student(batch), batch, student)
    assert loss.item() == 0 and not loss.requires_grad
    assert {name: value.item() for name, value in logs.items()} == pytest.approx(
        {"without_user_past": 0.2, "without_item_past": 0.4}
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channel", [options(), {"current": {"dim": WIDTH}}])
def test_students_optimizer_trains_the_fields_exactly_once(kind: str, channel: dict[str, Any]) -> None:
    student, channels = built(kind, channel)
    held = [id(parameter) for parameter in optimized(student, channels)]
    fields = dict(student.inputs.named_parameters())
    assert fields and not list(next(iter(channels.values())).parameters())
    assert [held.count(id(parameter)) for parameter in fields.values()] == [1] * len(fields)
    before = {name: parameter.detach().clone() for name, parameter in fields.items()}
    train(student, channels, [batch_of(seed) for seed in range(3)])
    assert [name for name, value in fields.items() if torch.equal(before[name], value)] == []


def test_fields_are_part_of_the_student_and_start_by_their_seed_alone() -> None:
    torch.manual_seed(1)
    first = built("deepfm", options(), seed=3)[0].state_dict()
    torch.manual_seed(2)
    again = built("deepfm", options(), seed=3)[0].state_dict()
    beside = built("deepfm", {**options(), "current": {"dim": WIDTH}}, seed=3)[0].state_dict()
    other = built("deepfm", options(), seed=4)[0].state_dict()
    names = [name for name in first if name.startswith("inputs.repr.")]
    assert names and all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], beside[name]) for name in names)
    assert not torch.equal(first[names[0]], other[names[0]])


def test_tables_start_as_without_the_channel() -> None:
    alone, beside = (built("deepfm", channels)[0].tables.export() for channels in ({}, options()))
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


@pytest.mark.parametrize("kind", KINDS)
def test_current_is_a_map_of_the_representation_or_a_vector_of_its_own(kind: str) -> None:
    student, channels = built(kind, {"current": {"dim": 4}})
    assert channels["current"].needs == {"served_representation"} and channels["current"].fields == (
        "current",
    )
    field: Any = student.inputs["current"]
    scramble(field)
    batch = batch_of()
    assert batch.teacher is not None and batch.teacher.representation is not None
    assert batch.teacher.mask.any() and not batch.teacher.mask.all()
    expected = array(batch.teacher.representation)[:, :4] @ array(field.project.weight).T
    expected[~batch.teacher.mask.numpy()] = array(field.absent)
    np.testing.assert_allclose(array(given(student, batch))[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_current_starts_as_small_as_the_tables_rows() -> None:
    student, _ = built("dlrm", {"current": {"dim": WIDTH}})
    fields = given(student, batch_of())
    assert 0.002 < fields.std().item() < 0.02


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (
            StoredRepresentationsConfig,
            {"history_length": 0},
            "repr.history_length: got 0, allowed: at least 1",
        ),
        (StoredRepresentationsConfig, {"dim": 0}, "repr.dim: got 0, allowed: at least 1"),
        (StoredRepresentationsConfig, {"heads": -1}, "repr.heads: got -1, allowed: at least 1"),
        (
            StoredRepresentationsConfig,
            {"half_life_days": 0.0},
            "repr.half_life_days: got 0.0, allowed: more than 0",
        ),
        (CurrentConfig, {"dim": 0}, "current.dim: got 0, allowed: at least 1"),
    ],
)
def test_settings_out_of_range(config: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("channel", "field", "got", "allowed"),
    [
        ("repr", "group", "users", "user, item, both"),
        ("repr", "encoder", "max", "mean, sum, din, target_attention"),
        ("repr", "alignment", "cca", "procrustes, none"),
        ("repr", "codec", "int4", "int8, fp16"),
        ("rawid", "encoder", "max", "mean, sum, din, target_attention"),
    ],
)
def test_unknown_words_are_refused(channel: str, field: str, got: str, allowed: str) -> None:
    demo = Path(__file__).parents[2] / "experiments" / "demo.yaml"
    with pytest.raises(ConfigErrors, match=f"{channel}.{field}: got '{got}'; allowed: {allowed}"):
        load_config(demo, [f"channels.one={{{channel}: {{{field}: {got}}}}}"])


@pytest.mark.parametrize("channel", ["repr", "rawid"])
def test_heads_that_do_not_divide_the_students_width(channel: str) -> None:
    with pytest.raises(
        UserError, match=f"{channel}.heads: got 3, allowed: divisors of the student's dim, {DIM}"
    ):
        built("deepfm", {channel: {"heads": 3}})
    built("deepfm", {channel: {"heads": 3, "encoder": "mean"}})


@pytest.mark.parametrize("channel", ["repr", "rawid", "current"])
def test_architecture_that_reads_no_fields_is_refused(channel: str) -> None:
    with pytest.raises(
        UserError, match="channels: got one that gives fields, allowed for the architecture 'gem'"
    ):
        built("gem", {channel: {}}, mlp=[8])


@pytest.mark.parametrize(
    ("channel", "needs"),
    [("repr", ("teacher", "representation")), ("current", ("teacher", "representation")), ("rawid", ())],
)
def test_what_the_experiment_must_hold(channel: str, needs: tuple[str, ...]) -> None:
    assert CHANNELS.get(channel).needs == needs


@pytest.mark.parametrize("channel", ["repr", "rawid", "current", "fitnets"])
def test_every_setting_is_documented(channel: str) -> None:
    assert [help.name for help in field_help(CHANNELS.get(channel).config) if not help.text] == []
