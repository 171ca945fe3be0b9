"""What adapter and gate share: losses, the order of a step, who feels what, and which labels count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.adapter_config import GatedConfig, StudentAdapterConfig
from adapters.learnt_target import LearntTarget
from distill.batch import Batch
from distill.errors import NonFiniteError, UserError
from distill.losses import label_loss
from students.base import Student
from tests.adapters.learnt_targets import (
    SCHEMA,
    adapter,
    array,
    batch_of,
    cross_entropy,
    gated,
    own_state,
    sigmoid,
    silent,
    stir,
    target,
)
from tests.students.models import make_student

Make = Callable[..., LearntTarget]
both = pytest.mark.parametrize("make", [adapter, gated])


def student_of(kind: str = "dlrm") -> Student:
    return make_student(kind, SCHEMA)


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], after[name]) for name in before)


def gradients(loss: Tensor, student: Student) -> dict[str, Tensor]:
    names, parameters = zip(*student.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True))


def expected_loss(channel: LearntTarget, taps: Tensor, batch: Batch, weights: Any = (1, 1)) -> float:
    head = channel.head.output
    p = sigmoid(array(taps) @ array(head.weight).T + array(head.bias))
    y, known = target(channel, batch)
    return cross_entropy(p, y, known[:, None].repeat(p.shape[1], axis=1), weights)


# Losses


@pytest.mark.parametrize(
    ("make", "options"),
    [(adapter, {}), (adapter, {"residual": False}), (gated, {}), (gated, {"gate": "equal"})],
)
def test_distillation_by_hand(make: Make, options: dict[str, Any]) -> None:
    student, batch = student_of(), batch_of()
    channel = make(student, weight=0.3, task_weights={"conversion": 2.0}, **options)
    stir(channel)
    output = student(batch)
    loss, logs = channel.loss(output, batch, student)
    expected = expected_loss(channel, output.taps["penultimate"], batch, (1, 2))
    assert logs["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(0.3 * expected, rel=1e-5)


@both
def test_the_target_learns_the_matured_labels(make: Make) -> None:
    """One step of Adam with its default moments: each parameter moves against the sign of its gradient."""
    student, batch = student_of(), batch_of()
    channel = make(student, learning_rate=0.01)
    stir(channel)
    y, known = target(channel, batch)
    mask = batch.matured.numpy() & known[:, None]
    assert mask.any(0).all() and not mask.all()
    parameter, change = channel.estimator.get_parameter("2.bias"), 1e-3
    before, at = parameter.detach().clone(), cross_entropy(y, array(batch.labels), mask)
    slopes = []
    for place in range(len(parameter)):
        with torch.no_grad():
            parameter[place] += change
        slopes.append(cross_entropy(target(channel, batch)[0], array(batch.labels), mask) - at)
        with torch.no_grad():
            parameter.copy_(before)
    channel.step(student(batch), batch)
    moved = (parameter.detach() - before).numpy()
    assert (abs(moved) > 0.005).all() and (moved * slopes < 0).all()


@both
def test_logged_losses_by_hand(make: Make) -> None:
    """Of the target before its step and of the student's own teacher, by the same labels."""
    student, batch = student_of(), batch_of()
    assert batch.teacher is not None
    channel = make(student)
    stir(channel)
    (y, _), own = target(channel, batch), array(batch.teacher.logits)
    known = batch.teacher.mask.numpy()
    mask = batch.matured.numpy() & known[:, None]
    channel.step(student(batch), batch)
    _, logs = channel.loss(student(batch), batch, student)
    labels = array(batch.labels)
    assert logs["target_loss"].item() == pytest.approx(cross_entropy(y, labels, mask), rel=1e-5)
    assert logs["teacher_loss"].item() == pytest.approx(cross_entropy(sigmoid(own), labels, mask), rel=1e-5)
    moved = (torch.from_numpy(y).logit().numpy() - own)[known]
    assert abs(moved).mean() > 0.1
    assert logs["correction"].item() == pytest.approx(abs(moved).mean(), rel=1e-4)
    shifts = [logs[f"shift_{task}"].item() for task in student.tasks]
    assert shifts == pytest.approx(moved.mean(0).tolist(), rel=1e-4, abs=1e-6)
    assert not any(value.requires_grad for value in logs.values())


# Order of a step


@both
def test_the_student_learns_from_the_target_after_its_step(make: Make) -> None:
    student, batch = student_of(), batch_of()
    channel = make(student, learning_rate=0.5)
    stir(channel)
    output = student(batch)
    before = expected_loss(channel, output.taps["penultimate"], batch)
    channel.step(output, batch)
    after = expected_loss(channel, output.taps["penultimate"], batch)
    loss, _ = channel.loss(output, batch, student)
    assert abs(after - before) > 1e-3
    assert loss.item() == pytest.approx(after, rel=1e-5)


@both
def test_step_changes_the_estimator_alone(make: Make) -> None:
    student, batch = student_of(), batch_of()
    channel = make(student)
    estimator, head, of_student = own_state(channel), channel.head.state_dict(), student.state_dict()
    head, of_student = ({name: t.clone() for name, t in part.items()} for part in (head, of_student))
    output = student(batch)
    channel.step(output, batch)
    channel.step(output, batch)  # from the second step on all layers move: the last one was zero before
    assert not any(torch.equal(estimator[name], t) for name, t in own_state(channel).items())
    assert same(head, channel.head.state_dict()) and same(of_student, student.state_dict())
    assert all(p.grad is None for p in [*student.parameters(), *channel.head.parameters()])


# Who feels the distillation


@both
def test_gradient_reaches_trunk_and_distill_head_alone(make: Make) -> None:
    student, batch = student_of("deepfm"), batch_of()
    assert batch.teacher is not None
    channel = make(student)
    stir(channel)
    logits = batch.teacher.logits.clone().requires_grad_()
    batch = batch.with_teacher(replace(batch.teacher, logits=logits))
    loss, _ = channel.loss(student(batch), batch, student)
    loss.backward(retain_graph=True)
    assert logits.grad is None and all(p.grad is None for p in channel.estimator.parameters())
    assert all(p.grad is not None and p.grad.any() for p in channel.dense_parameters())
    found = gradients(loss, student)
    assert not channel.touches_serving_head
    assert not found["heads.weight"].any() and not found["heads.bias"].any()
    assert found["deep.0.weight"].any()


@both
def test_the_teacher_feels_nothing_of_the_step(make: Make) -> None:
    student, batch = student_of(), batch_of()
    assert batch.teacher is not None
    kept = batch.teacher.logits.clone()
    make(student).step(student(batch), batch)
    assert torch.equal(kept, batch.teacher.logits)


@both
def test_no_gradient_where_the_head_says_what_the_target_says(make: Make) -> None:
    student, batch = student_of(), batch_of()
    channel = make(student)
    output = student(batch)
    assert batch.teacher is not None
    agreed = replace(batch.teacher, logits=channel.head(output.taps["penultimate"]).detach())
    batch = replace(batch, teacher=agreed, others={"apps": agreed})
    loss, _ = channel.loss(output, batch, student)
    assert max(g.abs().max().item() for g in gradients(loss, student).values()) < 1e-7


@both
def test_beta_scales_what_the_student_feels(make: Make) -> None:
    student, batch = student_of(), batch_of()
    whole, half = (
        gradients(make(student, beta=beta).loss(student(batch), batch, student)[0], student)
        for beta in (1.0, 0.5)
    )
    for name in whole:
        torch.testing.assert_close(half[name], 0.5 * whole[name])


@both
def test_the_models_optimiser_trains_the_head_alone(make: Make) -> None:
    channel = make(student_of())
    assert [*channel.dense_parameters()] == [*channel.head.parameters()]
    assert len([*channel.parameters()]) > len([*channel.head.parameters()])


# Which labels count


@both
def test_planted_immature_labels_change_nothing(make: Make) -> None:
    """As the rules `weighted` and `final` hand them to the student: of any size, and counted."""
    student, batch = student_of(), batch_of()
    planted = replace(
        batch,
        labels=torch.where(batch.matured, batch.labels, 7.5),
        label_mask=torch.ones_like(batch.label_mask),
    )
    assert not torch.equal(planted.labels, batch.labels)
    states, logs = [], []
    for seen in (batch, planted):
        channel = make(student)
        for _ in range(3):
            channel.step(student(seen), seen)
        states.append(own_state(channel))
        logs.append(channel.loss(student(seen), seen, student)[1])
    assert same(*states) and same(*logs)


@both
def test_matured_labels_that_differ_change_the_estimator(make: Make) -> None:
    student, batch = student_of(), batch_of()
    states = []
    for labels in (batch.labels, 1 - batch.labels):
        channel = make(student)
        channel.step(student(batch), replace(batch, labels=labels))
        states.append(own_state(channel))
    assert not same(*states)


@both
def test_without_a_matured_label_the_estimator_rests(make: Make) -> None:
    """Adam alone would move on by its momentum."""
    student, batch = student_of(), batch_of()
    channel = make(student)
    channel.step(student(batch), batch)
    before = own_state(channel)
    channel.step(student(batch), replace(batch, matured=torch.zeros_like(batch.matured)))
    channel.step(student(batch), silent(batch))
    assert same(before, own_state(channel))


@both
def test_rows_without_a_signal_teach_nothing(make: Make) -> None:
    student, batch = student_of(), batch_of()
    assert batch.teacher is not None
    unknown = ~(batch.teacher.mask | batch.others["apps"].mask)
    assert unknown.any() and not unknown.all()
    other = replace(batch, labels=torch.where(unknown[:, None], 1 - batch.labels, batch.labels))
    states, losses = [], []
    for seen in (batch, other):
        channel = make(student)
        channel.step(student(seen), seen)
        states.append(own_state(channel))
        losses.append(channel.loss(student(seen), seen, student)[0])
    assert same(*states) and torch.equal(*losses)


@both
def test_a_batch_without_any_signal_adds_exactly_nothing(make: Make) -> None:
    student, batch = student_of(), silent(batch_of())
    channel = make(student)
    channel.step(student(batch), batch)
    loss, logs = channel.loss(student(batch), batch, student)
    assert loss.item() == 0 and not any(value.item() for value in logs.values())
    assert not any(g.any() for g in gradients(loss, student).values())


# Beside the student


def train(channels: list[tuple[Make, dict[str, Any]]], steps: int = 5) -> dict[str, Tensor]:
    student = student_of("deepfm")
    built = [make(student, **options) for make, options in channels]
    parameters = [*student.parameters(), *(p for channel in built for p in channel.dense_parameters())]
    adam = torch.optim.Adam(parameters, lr=0.01)
    for step in range(steps):
        batch = batch_of(step)
        adam.zero_grad()
        output = student(batch)
        loss = label_loss(output.logits, batch.labels, batch.label_mask)
        for channel in built:
            channel.step(output, batch)
            loss = loss + channel.loss(output, batch, student)[0]
        loss.backward()
        adam.step()
    return student.state_dict()


@both
@pytest.mark.parametrize("options", [{"weight": 0.0}, {"beta": 0.0}])
def test_a_channel_that_weighs_nothing_changes_no_bit(make: Make, options: dict[str, Any]) -> None:
    assert same(train([]), train([(make, options)]))


@both
def test_a_channel_that_weighs_something_changes_the_student(make: Make) -> None:
    assert not same(train([]), train([(make, {})]))


@both
def test_it_is_no_part_of_the_student(make: Make) -> None:
    student = student_of()
    names = set(student.state_dict())
    channel = make(student)
    channel.step(student(batch_of()), batch_of())
    assert set(student.state_dict()) == names


@both
def test_a_student_of_one_task_reads_its_own_column(make: Make) -> None:
    from students import dlrm
    from students.config import DLRMConfig

    student = dlrm.build(
        DLRMConfig(dim=4, mlp=[5]),
        schema=SCHEMA,
        tasks=("conversion",),
        features=tuple(SCHEMA.sparse),
        dense_features=SCHEMA.dense,
        seed=0,
        table_learning_rate=0.1,
    )
    batch = batch_of()
    channel = make(student)
    assert channel.teacher_logits(batch.others["apps"]).equal(batch.others["apps"].logits[:, 1:])
    channel.step(student(batch), batch)
    loss, logs = channel.loss(student(batch), batch, student)
    assert batch.teacher is not None
    mask = batch.matured.numpy() & batch.teacher.mask.numpy()[:, None]
    p, y = sigmoid(array(batch.teacher.logits))[:, 1:], array(batch.labels)[:, 1:]
    assert logs["teacher_loss"].item() == pytest.approx(cross_entropy(p, y, mask[:, 1:], (1,)), rel=1e-5)
    assert loss.item() > 0


@both
def test_a_student_of_sampled_rows_learns_their_odds(make: Make) -> None:
    """Of the negatives a quarter is kept, so that odds are four times as high; the head starts there too."""
    student = student_of()
    student.negative_sampling = 0.25
    channel = make(student)
    signal = batch_of().others["apps"]
    odds = signal.logits[:, channel.task_index].double().exp()
    torch.testing.assert_close(channel.teacher_logits(signal).double().exp(), 4 * odds, rtol=1e-5, atol=0)
    channel.set_base_rates({task: torch.tensor([0.2], dtype=torch.float64) for task in SCHEMA.task_names})
    assert channel.head.output.bias.exp().tolist() == pytest.approx([4 * 0.25] * 2)


@both
def test_seed_decides_the_parameters(make: Make) -> None:
    student = student_of()
    torch.manual_seed(1)
    first = make(student, seed=3).state_dict()
    torch.manual_seed(2)
    assert same(first, make(student, seed=3).state_dict())
    assert not same(first, make(student, seed=4).state_dict())


# What is refused


@both
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_loss_stops_before_any_update(make: Make, value: float) -> None:
    student, batch = student_of(), batch_of()
    assert batch.teacher is not None
    channel = make(student)
    channel.step(student(batch), batch)
    before = own_state(channel)
    row = int((batch.teacher.mask & batch.matured[:, 0]).nonzero()[0])
    logits = batch.teacher.logits.clone()
    logits[row, 0] = value
    with pytest.raises(
        NonFiniteError, match=rf"{channel.name}: loss of the target is .* on day 1 \(examples 0 and"
    ):
        channel.step(student(batch), batch.with_teacher(replace(batch.teacher, logits=logits)))
    assert same(before, own_state(channel))


@pytest.mark.parametrize(("config", "name"), [(StudentAdapterConfig, "adapter"), (GatedConfig, "gated")])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight: got -1.0, allowed: 0 or more"),
        ({"beta": -0.5}, "beta: got -0.5, allowed: 0 or more"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0, allowed: more than 0"),
        ({"hidden": [0]}, r"hidden: got \[0\], allowed: widths of at least 1"),
        ({"layers": [4, 0]}, r"layers: got \[4, 0\], allowed: widths of at least 1"),
        ({"task_weights": {"click": -1.0}}, "task_weights: got .*, allowed: 0 or more"),
    ],
)
def test_settings_out_of_range(config: Any, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"{name}.{message}"):
        config(**options)


@both
def test_unknown_tap_and_task(make: Make) -> None:
    student = student_of()
    name = make(student).name
    with pytest.raises(
        UserError, match=f"{name}.tap: got 'penultimat', allowed: .*Did you mean 'penultimate'"
    ):
        make(student, tap="penultimat")
    with pytest.raises(
        UserError, match=f"{name}.task_weights: got 'clik', allowed: click, conversion. Did you"
    ):
        make(student, task_weights={"clik": 1.0})
