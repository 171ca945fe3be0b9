"""GEM on synthetic batches: shapes, empty histories, base rates of every surface, saving, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from distill import structured
from distill.checkpoint import load_model, save_model
from distill.errors import UserError
from distill.losses import label_loss
from distill.schema import FeatureSchema
from experiments.benchmarks.synthetic import make_batch, make_schema
from teachers.config import GEMConfig
from teachers.gem import GEM, build
from tests.students.test_students import reordered

LENGTHS = [2, 0, 1, 4, 3]
SMALL: dict[str, Any] = {
    "dim": 8,
    "history_length": 4,
    "layers": 2,
    "wukong": {"fm_tokens": 3, "linear_tokens": 2, "rank": 2},
    "mlp": [6, 5],
}


def schema_of(dense: int = 2) -> FeatureSchema:
    return make_schema([7, 5, 3], dense=dense, tasks=("click", "conversion"))


def make_gem(schema: FeatureSchema, seed: int = 0, **options: Any) -> GEM:
    """GEM with the item in the middle of its features; `tasks` and `features` may be changed too."""
    item, first, last = schema.sparse
    names: dict[str, Any] = {"tasks": schema.task_names, "features": (first, item, last)}
    names |= {key: options.pop(key) for key in (*names, "content") if key in options}
    return build(
        structured.build(GEMConfig, SMALL | options),
        schema=schema,
        dense_features=schema.dense,
        seed=seed,
        table_learning_rate=0.1,
        **names,
    )


FORMS: dict[str, dict[str, Any]] = {
    "defaults": {"layers": 0},
    "layers": {},
    "first form": {
        "skip": False,
        "sequence": {"layers": 1},
        "summaries": {"interests": 0},
        "wukong": {**SMALL["wukong"], "norm": True},
        "surfaces": {"norm": False},
    },
    "sequence layer": {"sequence": {"layers": 1}},
    "target alone": {"sequence": {"layers": 2}, "summaries": {"seeds": 0, "recent": 0}},
    "four heads": {"sequence": {"heads": 4, "layers": 1}, "layers": 1},
    "pooled early": {"sequence": {"pool_early": True}},
    "no gates": {"summaries": {"gates": False}},
    "seeds": {"summaries": {"seeds": 2}},
    "no history": {"history_length": 0},
    "no skip": {"skip": False},
    "interests": {"summaries": {"interests": 2}},
    "pyramid": {"sequence": {"layers": 2, "rotary": True}, "pyramid": {"keep": [3, 2]}},
    "window": {"sequence": {"layers": 1, "causal": False, "window": 2, "rotary": True, "merge": "mask"}},
    "wukong": {"wukong": {**SMALL["wukong"], "attentive": True, "cross_layer": True}},
    "surfaces": {"surfaces": {"norm": True, "experts": 3, "heads": True}},
    "conditional": {"conditional": {"conversion": "click"}},
    "outcomes": {"layers": 0, "outcomes": {"weight": 0.5, "hidden": 6}},
    "interleaved": {"interleave": True},
    "all": {
        "interleave": True,
        "skip": True,
        "wukong": {**SMALL["wukong"], "attentive": True, "cross_layer": True},
        "sequence": {"rotary": True, "merge": "mask"},
        "pyramid": {"keep": [4, 2]},
        "summaries": {"cls_tokens": 2, "seeds": 2, "features": 3, "interests": 1, "gates": True},
        "surfaces": {"norm": True, "experts": 2, "heads": True},
        "conditional": {"conversion": "click"},
        "outcomes": {"weight": 0.5},
    },
}
forms = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)


@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0, 0], [1]], ids=["some", "none", "one"])
@forms
def test_logits_and_taps_have_their_widths_and_train(lengths: list[int], options: dict[str, Any]) -> None:
    schema = schema_of()
    model, batch = make_gem(schema, **options), make_batch(schema, lengths, seed=1)
    output = model(batch)
    assert output.logits.shape == (len(lengths), 2)
    assert {name: tap.shape[1] for name, tap in output.taps.items()} == model.tap_widths
    label_loss(output.logits, batch.labels, batch.label_mask).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert output.logits.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "form", ["defaults", "first form", "pyramid", "window", "conditional", "outcomes", "interleaved", "all"]
)
def test_every_parameter_and_table_is_trained(form: str) -> None:
    """A few steps: some blocks start behind a gate of zero, or two, and learn from the step after it opens."""
    schema = schema_of()
    # Wide enough that no ReLU of the trunk dies with all others.
    model = make_gem(schema, **FORMS[form], mlp=[32, 16])
    batch = make_batch(schema, [4] * 128, seed=1)
    before = model.tables.export()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(4):
        adam.zero_grad()
        output = model(batch)
        own = 0.0 if output.own_loss is None else output.own_loss.mean()
        (label_loss(output.logits, batch.labels, batch.label_mask) + own).backward()
        adam.step()
    assert [name for name, p in model.named_parameters() if torch.equal(p, start[name])] == []
    after = model.tables.export()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@forms
def test_permuting_examples_permutes_logits(options: dict[str, Any]) -> None:
    schema = schema_of()
    model, batch = make_gem(schema, **options).eval(), make_batch(schema, LENGTHS, seed=1)
    order = [3, 1, 4, 0, 2]
    moved = replace(reordered(batch, order), domain=batch.domain[order], timestamp=batch.timestamp[order])
    torch.testing.assert_close(model(moved).logits, model(batch).logits[order])


def test_outcomes_of_events_are_learnt_from_in_training_alone() -> None:
    schema = schema_of()
    model, batch = make_gem(schema, **FORMS["outcomes"]), make_batch(schema, LENGTHS, seed=1)
    assert model.outcomes is not None and batch.history is not None
    events = model.tables(batch.sparse, batch.history.item).events
    assert events is not None
    expected = 0.5 * model.outcomes.loss(batch.history, events, batch.timestamp)
    torch.testing.assert_close(model(batch).own_loss, expected)
    assert model.eval()(batch).own_loss is None


def test_history_matters_and_without_its_length_it_does_not() -> None:
    schema = schema_of()
    batch = make_batch(schema, [4, 3, 2], seed=1)
    assert batch.history is not None
    other = replace(batch, history=replace(batch.history, item=(batch.history.item + 1) % 7))
    rich, thin = make_gem(schema).eval(), make_gem(schema, history_length=0).eval()
    assert not torch.allclose(rich(batch).logits, rich(other).logits)
    assert torch.equal(thin(batch).logits, thin(replace(batch, history=None)).logits)
    assert not hasattr(thin, "events")


def test_trunk_starts_on_the_plain_tokens_when_they_skip_the_towers() -> None:
    schema = schema_of()
    batch = make_batch(schema, LENGTHS, seed=1)
    model = make_gem(schema, **FORMS["defaults"]).eval()
    before = model(batch).logits
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("towers.interactions"):
                parameter.normal_()
    assert torch.equal(model(batch).logits, before)


def test_without_dense_features() -> None:
    schema = schema_of(dense=0)
    assert make_gem(schema)(make_batch(schema, LENGTHS, seed=1)).logits.shape == (5, 2)


def test_one_task_of_two_and_no_item_feature() -> None:
    schema = schema_of()
    model = make_gem(schema, tasks=("conversion",), features=("feature_2",), history_length=0)
    assert model.task_index == [1]
    assert model(make_batch(schema, LENGTHS, seed=1)).logits.shape == (5, 1)


def logit(rate: float) -> float:
    return math.log(rate / (1 - rate))


def test_every_surface_starts_at_its_rate_and_an_unknown_one_at_the_mean() -> None:
    model, nan = make_gem(schema_of()), math.nan
    rates = {"click": [0.2, nan, 0.6], "conversion": [nan, nan, 0.1]}
    model.set_base_rates({task: torch.tensor(values, dtype=torch.float64) for task, values in rates.items()})
    click, conversion = model.heads.surface_bias.weight.T.tolist()
    assert click == pytest.approx([logit(0.2), logit(0.4), logit(0.6)])
    assert conversion == pytest.approx([logit(0.1)] * 3)


def test_rates_of_nothing_and_of_all_stay_finite() -> None:
    model = make_gem(schema_of())
    model.set_base_rates(
        {"click": torch.tensor([0.0, 1.0, 0.5]).double(), "conversion": torch.full((3,), math.nan).double()}
    )
    click, conversion = model.heads.surface_bias.weight.T.tolist()
    assert click == pytest.approx([logit(1e-4), -logit(1e-4), 0.0], abs=1e-4)
    assert conversion == [0.0, 0.0, 0.0]


def test_base_rates_are_added_to_the_logits() -> None:
    schema = schema_of()
    model, batch = make_gem(schema).eval(), make_batch(schema, LENGTHS, seed=1)
    before = model(batch).logits
    model.set_base_rates({task: torch.tensor([0.1, 0.5, 0.9]).double() for task in schema.task_names})
    expected = torch.tensor([logit(0.1), 0.0, logit(0.9)])[batch.domain]
    torch.testing.assert_close((model(batch).logits - before), expected.unsqueeze(1).expand(-1, 2))


@forms
def test_saved_and_loaded_it_predicts_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    schema = schema_of()
    model, other = (make_gem(schema, seed=seed, **options).eval() for seed in (0, 1))
    batch = make_batch(schema, LENGTHS, seed=1)
    assert not torch.equal(model(batch).logits, other(batch).logits)
    save_model(model, tmp_path / "gem.safetensors", {})
    load_model(other, tmp_path / "gem.safetensors")
    assert torch.equal(model(batch).logits, other(batch).logits)


def test_same_seed_same_teacher() -> None:
    schema = schema_of()
    torch.manual_seed(1)
    first, drawn = make_gem(schema, seed=3).state_dict(), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    torch.manual_seed(2)
    again = make_gem(schema, seed=3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 6}, "options.dim: got 6, allowed: a positive multiple of 4"),
        ({"dim": 0}, "options.dim: got 0, allowed: a positive multiple of 4"),
        ({"dim": 8, "sequence": {"heads": 3}}, "options.dim: got 8, .* and of options.sequence.heads, 3"),
        ({"sequence": {"heads": 0}}, "options.sequence.heads: got 0, allowed: at least 1"),
        ({"sequence": {"layers": -1}}, "options.sequence.layers: got -1"),
        ({"sequence": {"window": -1}}, "options.sequence.window: got -1"),
        ({"layers": -1}, "options.layers: got -1, allowed: at least 0"),
        ({"wukong": {"rank": 0}}, "options.wukong.rank: got 0"),
        ({"wukong": {"fm_tokens": 0}}, "options.wukong.fm_tokens: got 0"),
        ({"wukong": {"linear_tokens": 0}}, "options.wukong.linear_tokens: got 0"),
        ({"summaries": {"seeds": -1}}, "options.summaries.seeds: got -1, allowed: at least 0"),
        ({"summaries": {"recent": -1}}, "options.summaries.recent: got -1"),
        ({"summaries": {"cls_tokens": 1}}, "options.summaries.cls_tokens: got 1, allowed: 0 without"),
        ({"pyramid": {"modules": 0}}, "options.pyramid.modules: got 0"),
        (
            {"pyramid": {"keep": [2, 1]}},
            r"options.pyramid.keep: got \[2, 1\], allowed: one number for each of the 0",
        ),
        (
            {"pyramid": {"keep": [1, 2]}},
            r"options.pyramid.keep: got \[1, 2\], .* none larger than the one before",
        ),
        ({"interleave": True, "history_length": 0}, "options.interleave: got true with history_length 0"),
        (
            {"dim": 4, "sequence": {"heads": 4, "rotary": True}},
            "options.sequence.rotary: got true with 1 numbers",
        ),
        ({"interleave": True, "sequence": {"pool_early": True}}, "options.sequence.pool_early: got true"),
        ({"surfaces": {"experts": -1}}, "options.surfaces.experts: got -1"),
        ({"outcomes": {"weight": -0.1}}, "options.outcomes.weight: got -0.1, allowed: at least 0"),
        ({"outcomes": {"hidden": 0}}, "options.outcomes.hidden: got 0"),
        (
            {"outcomes": {"weight": 0.1}, "history_length": 0},
            "options.outcomes.weight: got 0.1 with history_length 0, allowed: 0",
        ),
        ({"history_length": -1}, "options.history_length: got -1"),
        ({"mlp": []}, r"options.mlp: got \[\], allowed: at least one width"),
        ({"mlp": [8, 0]}, r"options.mlp: got \[8, 0\]"),
        ({"dropout": 1.0}, "options.dropout: got 1.0, allowed: 0 or more, less than 1"),
        ({"features": ("feature_1",)}, "share the table of 'item_id'"),
        ({"features": ("item_idd",)}, "features: got 'item_idd'.*Did you mean 'item_id'"),
        ({"tasks": ("clicks",)}, "tasks: got 'clicks'.*Did you mean 'click'"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_gem(schema_of(), **options)


@pytest.mark.parametrize("form", ["first form", "pyramid", "all"])
def test_computing_again_in_the_backward_pass_changes_nothing(form: str) -> None:
    schema = schema_of()
    batch = make_batch(schema, LENGTHS, seed=1)
    found = []
    for checkpointing in (False, True):
        model = make_gem(schema, **FORMS[form], checkpointing=checkpointing)
        logits = model(batch).logits
        label_loss(logits, batch.labels, batch.label_mask).backward()
        found.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again)


def with_groups(schema: FeatureSchema) -> FeatureSchema:
    """The item, a feature of the user, and one of the context."""
    groups = dict(zip(schema.sparse, ("item", "user", "context"), strict=True))
    sparse = {name: replace(feature, group=groups[name]) for name, feature in schema.sparse.items()}
    return replace(schema, sparse=sparse)


@pytest.mark.parametrize("form", ["defaults", "all"])
def test_user_and_item_are_known_apart(form: str) -> None:
    """Another item at hand leaves the tap `user` alone, another past the tap `item`; `cross` knows of both."""
    schema = with_groups(schema_of())
    model, batch = make_gem(schema, **FORMS[form]).eval(), make_batch(schema, [4, 3, 2], seed=1)
    assert batch.history is not None
    ids = batch.sparse.values().view(3, 3).clone()
    ids[0] = (ids[0] + 1) % 7  # the item leads the schema's features
    item = replace(
        batch, sparse=KeyedJaggedTensor(batch.sparse.keys(), ids.flatten(), lengths=batch.sparse.lengths())
    )
    past = replace(batch, history=replace(batch.history, domain=(batch.history.domain + 1) % 3))
    before, other_item, other_past = (model(b).taps for b in (batch, item, past))
    same = {name for name in before if torch.equal(before[name], other_item[name])}
    assert same == {"user"}
    assert {name for name in before if torch.equal(before[name], other_past[name])} == {"item", "embedding"}


def test_content_enters_items_and_events_and_counts_only_where_it_is_known() -> None:
    schema = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"), content={"image": 4})
    model = make_gem(schema, content=("image",)).eval()
    batch = make_batch(schema, [4, 3, 0], seed=1)
    vectors = batch.content["image"]
    assert vectors.events is not None and vectors.events_known is not None

    def logits(**changed: Tensor) -> Tensor:
        return model(replace(batch, content={"image": replace(vectors, **changed)})).logits

    before = model(batch).logits
    assert not torch.allclose(
        before, logits(item=vectors.item + 1, item_known=torch.ones(3, dtype=torch.bool))
    )
    assert not torch.allclose(before, logits(events=vectors.events + 1))
    unknown = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(logits(item_known=unknown), logits(item=vectors.item * 9, item_known=unknown))


def test_gem_refuses_a_modality_that_the_data_set_lacks() -> None:
    with pytest.raises(UserError, match="content: got 'image', allowed: none"):
        make_gem(schema_of(), content=("image",))


def test_conditional_task_is_never_likelier_than_its_condition() -> None:
    schema = schema_of()
    model, batch = make_gem(schema, **FORMS["conditional"]).eval(), make_batch(schema, LENGTHS, seed=1)
    rates = {"click": torch.tensor([0.2, 0.5, 0.6]), "conversion": torch.tensor([0.1, 0.4, 0.3])}
    model.set_base_rates({task: rate.double() for task, rate in rates.items()})
    with torch.no_grad():
        model.heads.shared.weight.zero_()
    click, conversion = model(batch).logits.sigmoid().unbind(1)
    torch.testing.assert_close(click, rates["click"][batch.domain])
    torch.testing.assert_close(conversion, rates["conversion"][batch.domain])
