"""Hints: the loss by hand, and where its gradient may and may not go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adapters.fitnets import FitNets
from adapters.representation_config import FitNetsConfig
from distill.batch import Batch
from distill.errors import UserError
from distill.registry import CHANNELS
from experiments.benchmarks.synthetic import make_batch
from students.base import Student
from tests.adapters.built_students import KINDS, SCHEMA, built, train
from tests.adapters.past_data import array, with_representation

WIDTH = 6


def batch_of(seed: int = 0) -> Batch:
    return with_representation(make_batch(SCHEMA, [2, 0, 1, 4, 3, 0], seed), WIDTH, seed)


def hinted(kind: str = "deepfm", **options: Any) -> tuple[Student, FitNets]:
    student, channels = built(kind, {"fitnets": {"dim": WIDTH, **options}})
    channel = channels["fitnets"]
    assert isinstance(channel, FitNets)
    return student, channel


def gradients(student: Student, channel: FitNets, batch: Batch) -> dict[str, Tensor]:
    """What the hint alone sends to the student's dense parameters."""
    loss, _ = channel.loss(student(batch), batch, student)
    names, parameters = zip(*student.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tap", "dim"), [("penultimate", WIDTH), ("embedding", 2)])
def test_loss_by_hand(kind: str, tap: str, dim: int) -> None:
    student, channel = hinted(kind, weight=0.3, tap=tap, dim=dim)
    assert channel.needs == {"representation"} and not channel.fields and not channel.touches_serving_head
    batch = batch_of()
    output, signal = student(batch), batch.teacher
    assert signal is not None and signal.representation is not None
    regressor = channel.regressor
    foretold = array(output.taps[tap]) @ array(regressor.weight).T + array(regressor.bias)
    error = ((foretold - array(signal.representation)[:, :dim]) ** 2).mean(1)
    expected = error[signal.mask.numpy()].mean()
    loss, logs = channel.loss(output, batch, student)
    assert logs["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(0.3 * expected, rel=1e-5)
    np.testing.assert_array_less(0, signal.mask.sum().item())


def test_gradient_of_the_tap_is_that_of_the_equation() -> None:
    student, channel = hinted()
    batch = batch_of()
    assert batch.teacher is not None and batch.teacher.representation is not None
    channel.double()
    signal = replace(batch.teacher, representation=batch.teacher.representation.double())
    output = student(batch)
    tap = output.taps["penultimate"].detach().double().requires_grad_()

    def loss(tap: Tensor) -> Tensor:
        beside = replace(output, taps={"penultimate": tap})
        return channel.loss(beside, batch.with_teacher(signal), student)[0]

    assert torch.autograd.gradcheck(loss, tap)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_goes_into_the_serving_heads(kind: str) -> None:
    student, channel = hinted(kind)
    found = gradients(student, channel, batch_of())
    assert not found["heads.weight"].any() and not found["heads.bias"].any()
    assert any(gradient.any() for gradient in found.values())


def test_nothing_goes_into_the_representation() -> None:
    student, channel = hinted()
    batch = batch_of()
    assert batch.teacher is not None and batch.teacher.representation is not None
    z = batch.teacher.representation.clone().requires_grad_()
    batch = batch.with_teacher(replace(batch.teacher, representation=z))
    channel.loss(student(batch), batch, student)[0].backward()
    assert z.grad is None


def test_no_gradient_where_the_hint_is_met() -> None:
    student, channel = hinted()
    batch = batch_of()
    assert batch.teacher is not None
    met = channel.regressor(student(batch).taps["penultimate"]).detach()
    batch = batch.with_teacher(replace(batch.teacher, representation=met))
    assert max(gradient.abs().max().item() for gradient in gradients(student, channel, batch).values()) == 0


def test_rows_without_a_signal_do_not_count() -> None:
    student, channel = hinted()
    batch = batch_of()
    assert batch.teacher is not None and batch.teacher.representation is not None
    mask = batch.teacher.mask
    assert mask.any() and not mask.all()
    other = torch.where(mask[:, None], batch.teacher.representation, torch.ones(()))
    output = student(batch)
    again = batch.with_teacher(replace(batch.teacher, representation=other))
    assert torch.equal(channel.loss(output, batch, student)[0], channel.loss(output, again, student)[0])


def test_batch_without_any_signal_adds_exactly_nothing() -> None:
    student, channel = hinted()
    batch = batch_of()
    assert batch.teacher is not None
    silent = batch.with_teacher(replace(batch.teacher, mask=torch.zeros_like(batch.teacher.mask)))
    assert channel.loss(student(silent), silent, student)[0].item() == 0
    assert not any(gradient.any() for gradient in gradients(student, channel, silent).values())


def test_beta_scales_what_the_student_feels_and_not_the_regressor() -> None:
    whole, half = (gradients(*hinted(beta=beta), batch_of()) for beta in (1.0, 0.5))
    for name in whole:
        torch.testing.assert_close(half[name], 0.5 * whole[name])
    own = []
    for beta in (1.0, 0.0):
        student, channel = hinted(beta=beta)
        loss, _ = channel.loss(student(batch_of()), batch_of(), student)
        own.append(torch.autograd.grad(loss, channel.regressor.weight)[0])
    assert own[0].any() and torch.equal(own[0], own[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"weight": 0.0}, {"beta": 0.0}])
def test_a_hint_that_weighs_nothing_changes_no_bit(kind: str, options: dict[str, float]) -> None:
    batches = [batch_of(seed) for seed in range(5)]
    alone, (student, channel) = train(*built(kind, {}), batches), hinted(kind, **options)
    beside = train(student, {"fitnets": channel}, batches)
    assert alone.keys() == beside.keys()
    assert [name for name in alone if not torch.equal(alone[name], beside[name])] == []


def test_a_hint_that_weighs_something_changes_the_student() -> None:
    batches = [batch_of(seed) for seed in range(5)]
    alone, (student, channel) = train(*built("deepfm", {}), batches), hinted()
    assert not torch.equal(
        alone["deep.0.weight"], train(student, {"fitnets": channel}, batches)["deep.0.weight"]
    )


def test_the_hint_is_learnt() -> None:
    student, channel = hinted()
    batch = batch_of()
    before = channel.loss(student(batch), batch, student)[1]["loss"].item()
    train(student, {"fitnets": channel}, [batch] * 50)
    assert channel.loss(student(batch), batch, student)[1]["loss"].item() < 0.5 * before


def test_regressor_is_the_channels_and_starts_by_its_seed() -> None:
    student, channel = hinted()
    assert set(student.state_dict()) == set(built("deepfm", {})[0].state_dict())
    assert {name for name, _ in channel.named_parameters()} == {"regressor.weight", "regressor.bias"}
    torch.manual_seed(5)
    again = hinted()[1]
    other = built("deepfm", {"fitnets": {"dim": WIDTH}}, seed=1)[1]["fitnets"]
    assert isinstance(other, FitNets)
    assert torch.equal(channel.regressor.weight, again.regressor.weight)
    assert not torch.equal(channel.regressor.weight, other.regressor.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "fitnets.weight: got -1.0, allowed: 0 or more"),
        ({"beta": -0.5}, "fitnets.beta: got -0.5, allowed: 0 or more"),
        ({"dim": 0}, "fitnets.dim: got 0, allowed: at least 1"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FitNetsConfig(**options)


def test_unknown_tap() -> None:
    with pytest.raises(UserError, match="fitnets.tap: got 'embeding', allowed: .*Did you mean 'embedding'"):
        hinted(tap="embeding")


def test_representation_narrower_than_asked_for() -> None:
    student, channel = hinted(dim=WIDTH + 1)
    with pytest.raises(AssertionError, match="width 6, wanted 7"):
        channel.loss(student(batch_of()), batch_of(), student)


def test_what_the_experiment_must_hold() -> None:
    assert CHANNELS.get("fitnets").needs == ("teacher", "representation")
