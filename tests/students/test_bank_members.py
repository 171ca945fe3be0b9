"""What a bank takes in and gives back: members of one shape, plain students."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from distill.batch import SharedHistory
from distill.dataset import DataSet
from distill.errors import UserError
from distill.module import DistillModule
from students.bank import Bank, Member
from tests.distill.tiny_training import Memory, Own, Tiny
from tests.students.bank_training import One, days_of, make, write_days
from tests.students.models import KINDS

MEMBERS = [One(0), One(1, {"ah": {}}), One(2, {"ah": {"weight": 2.0}})]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_days(tmp_path_factory.mktemp("data") / "small")


def makes_of(
    data: DataSet, kind: str = "deepfm", members: list[One] = MEMBERS, **options: Any
) -> list[Callable[[], Member]]:
    return [partial(make, kind, data, one, False, **options) for one in members]


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_exports_as_a_plain_student_of_the_same_scores(data: DataSet, kind: str) -> None:
    makes = makes_of(data, kind, history_length=4)
    bank, batches = Bank(makes), list(days_of(data, 4, False)(1, True))
    for batch in batches:
        bank.step(batch)
    for place, made in enumerate(makes):
        plain = made().model
        untrained = plain(batches[0]).logits
        plain.load_state_dict(bank.export(place))
        torch.testing.assert_close(plain(batches[0]).logits, bank.predict(batches[0])[place])
        assert not torch.allclose(plain(batches[0]).logits, untrained, atol=1e-3)


def test_what_only_training_needs_is_not_exported(data: DataSet) -> None:
    makes = makes_of(data)
    assert Bank(makes).export(1).keys() == makes[1]().model.state_dict().keys()


def test_predicting_changes_nothing(data: DataSet) -> None:
    bank, batch = Bank(makes_of(data)), next(iter(days_of(data, 0, False)(1, True)))
    before = bank.export(0)
    first = bank.predict(batch)
    assert torch.equal(first, bank.predict(batch)) and not first.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in bank.export(0).items())


def test_means_are_those_of_each_member_alone(data: DataSet) -> None:
    members = [*MEMBERS, One(3, {"single": {}})]
    makes = [partial(make, "deepfm", data, one, True) for one in members]
    bank, batches = Bank(makes), list(days_of(data, 0, True)(1, True))
    for batch in batches:
        bank.step(batch)
    means = bank.take_means()
    assert set(means) == {"loss_labels", "ah/loss", "ah/clipped", "single/loss", "single/clipped"}
    for place, made in enumerate(makes):
        member = made()
        alone = DistillModule(member.model, member.channels, member.optimizer, Memory())
        optimizer = alone.configure_optimizers()
        for index, batch in enumerate(batches):
            optimizer.zero_grad()
            alone.training_step(batch, index).backward()
            optimizer.step()
        found = {name: values[place].item() for name, values in means.items() if not values[place].isnan()}
        assert found == pytest.approx(alone.take_means(), rel=1e-6)


def test_a_batch_of_shared_histories_is_for_serving(data: DataSet) -> None:
    bank, batch = Bank(makes_of(data)), next(iter(days_of(data, 0, False)(1, True)))
    nobody = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(AssertionError, match="for serving, not for a bank"):
        bank.step(replace(batch, shared=SharedHistory(nobody, nobody, nobody)))


@pytest.mark.parametrize("layer", [nn.LayerNorm(3), nn.BatchNorm1d(3, affine=False), nn.Dropout(0.1)])
def test_a_layer_without_a_stacked_form_is_named(data: DataSet, layer: nn.Module) -> None:
    def made(one: One) -> Member:
        member = make("deepfm", data, one, False)
        member.model.norm = layer
        return member

    with pytest.raises(UserError, match=rf"layer 'norm' \({type(layer).__name__}\) has no stacked form"):
        Bank([partial(made, one) for one in MEMBERS])


def test_dice_is_refused(data: DataSet) -> None:
    with pytest.raises(UserError, match=r"\(Dice\) has no stacked form"):
        Bank(makes_of(data, "din", history_length=4, activation="dice"))


def test_no_member_is_refused() -> None:
    with pytest.raises(UserError, match="bank: got no member"):
        Bank([])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("dlrm", One(1), {}), "member 1: architecture: got DLRM, allowed: DeepFM"),
        (("deepfm", One(1), {"mlp": [6, 4]}), "member 1: tap_widths: got .*'penultimate': 7"),
        (("deepfm", One(1), {"history_length": 4}), "member 1: .*history"),
        (("deepfm", One(1, {}, {"batch_size": 4}), {}), "member 1: batch_size: got 4, allowed: 8"),
    ],
)
def test_members_of_another_shape_are_refused(data: DataSet, other: Any, message: str) -> None:
    kind, one, options = other
    with pytest.raises(UserError, match=message):
        Bank([partial(make, "deepfm", data, One(0), False), partial(make, kind, data, one, False, **options)])


Change = Callable[[Any], None]


def with_layer(layer: nn.Module) -> Change:
    return lambda model: model.deep.__setitem__(1, layer)


def with_attribute(value: Any) -> Change:
    return lambda model: setattr(model, "scale", value)


def with_schema(**changes: Any) -> Change:
    return lambda model: setattr(model, "schema", replace(model.schema, **changes))


def with_constant(value: float) -> Change:
    return lambda model: model.register_buffer("constant", torch.tensor([value]), persistent=False)


@dataclass
class Settings:
    """A user's own."""

    sizes: list[int]


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        (with_layer(nn.ReLU()), with_layer(nn.Tanh()), "layer 'deep.1': got .*Tanh, allowed: .*ReLU"),
        (
            with_layer(nn.LeakyReLU(0.1)),
            with_layer(nn.LeakyReLU(0.2)),
            "layer 'deep.1' settings: got negative_slope=0.2, allowed: negative_slope=0.1",
        ),
        (with_attribute(1.0), with_attribute(2.0), "scale: got 2.0, allowed: 1.0"),
        (with_attribute([1, 2]), with_attribute([1, 3]), r"scale: got \(1, 3\), allowed: \(1, 2\)"),
        (
            with_attribute(Settings([1])),
            with_attribute(Settings([2])),
            r"scale.sizes: got \(2,\), allowed: \(1,\)",
        ),
        (with_attribute(torch.relu), with_attribute(torch.tanh), "scale: got .*tanh, allowed: .*relu"),
        (with_constant(1.0), with_constant(2.0), "constant: got torch.float32"),
        (with_schema(name="a"), with_schema(name="b"), "schema.name: got b, allowed: a"),
    ],
    ids=["kind", "setting", "number", "list", "dataclass", "function", "constant", "schema"],
)
def test_what_has_no_parameters_is_part_of_the_shape_too(
    data: DataSet, first: Change, other: Change, message: str
) -> None:
    def made(one: One, change: Change) -> Member:
        member = make("deepfm", data, one, False)
        change(member.model)
        return member

    assert Bank([partial(made, One(seed), first) for seed in (0, 1)]).size == 2
    with pytest.raises(UserError, match=f"member 1: {message}"):
        Bank([partial(made, One(0), first), partial(made, One(1), other)])


@pytest.mark.parametrize("shared", [True, False])
def test_fixed_and_shared_parameters_are_refused(data: DataSet, shared: bool) -> None:
    def made() -> Member:
        member = make("deepfm", data, One(0), False)
        model: Any = member.model
        if shared:
            model.again = model.heads
        else:
            model.heads.requires_grad_(False)
        return member

    with pytest.raises(
        UserError, match=r"got fixed or shared parameters (heads|again)\.weight, (heads|again)\.bias"
    ):
        Bank([made])


def test_pooling_is_part_of_the_shape(data: DataSet) -> None:
    makes = [
        *makes_of(data, history_length=4)[:1],
        *makes_of(data, history_length=4, history_pooling="sum")[:1],
    ]
    with pytest.raises(UserError, match="member 1: history_pooling: got sum, allowed: mean"):
        Bank(makes)


def test_channels_may_differ_in_their_weight_alone(data: DataSet) -> None:
    members = [One(0, {"ah": {"beta": 0.5}}), One(1), One(2, {"ah": {"beta": 0.25}})]
    with pytest.raises(
        UserError, match="channel 'ah' of member 2: got .*'beta': 0.25.*; the weight alone may differ"
    ):
        Bank(makes_of(data, members=members))


def test_other_channels_are_refused(data: DataSet) -> None:
    def made() -> Member:
        member = make("deepfm", data, One(0), False)
        return Member(member.model, {"own": Own()}, member.optimizer)

    with pytest.raises(
        UserError, match="member 0: got channel 'own' with these settings, allowed: channels that several"
    ):
        Bank([made])


def test_other_architectures_are_refused(data: DataSet) -> None:
    with pytest.raises(UserError, match="member 0: got Tiny, allowed: architectures that start at"):
        Bank([lambda: Member(Tiny(data.schema), {}, One(0).settings)])
