"""The auxiliary head and its control: targets, masks, and where gradients may and may not go."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.adapter_config import StudentAdapterConfig
from adapters.auxiliary_head import AuxiliaryHead
from adapters.auxiliary_head import build as build_auxiliary_head
from adapters.config import AuxiliaryHeadConfig
from distill.batch import Batch, TeacherSignal
from distill.channel_config import SingleConfig
from distill.errors import UserError
from distill.losses import label_loss
from distill.protocols import Channel
from distill.single import build as build_single
from experiments.benchmarks.synthetic import make_batch, make_schema
from students.base import Student
from tests.students.models import make_student

SCHEMA = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"))
LENGTHS = [0] * 6


def batch_of(seed: int = 0) -> Batch:
    return make_batch(SCHEMA, LENGTHS, seed)


def auxiliary_head(student: Student, seed: int = 0, **options: Any) -> AuxiliaryHead:
    channel = build_auxiliary_head(AuxiliaryHeadConfig(**options), SCHEMA, seed)
    channel.attach(student)
    return channel


def single(student: Student, **options: Any) -> Channel:
    channel = build_single(SingleConfig(**options), SCHEMA, 0)
    channel.attach(student)
    return channel


def gradients(student: Student, channel: Channel, batch: Batch) -> dict[str, Tensor]:
    """What the channel's loss alone sends to the student's dense parameters."""
    loss, _ = channel.loss(student(batch), batch, student)
    names, parameters = zip(*student.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def expected_loss(logits: Tensor, batch: Batch, alpha: float, weights: tuple[float, float] = (1, 1)) -> float:
    """The loss written out: mean over the rows with a signal, for each task times its weight."""
    assert batch.teacher is not None
    total = 0.0
    rows = [row for row in range(len(LENGTHS)) if batch.teacher.mask[row]]
    for task, weight in enumerate(weights):
        for row in rows:
            target = min(alpha / (1 + math.exp(-batch.teacher.logits[row, task].item())), 1.0)
            p = 1 / (1 + math.exp(-logits[row, task].item()))
            total -= weight * (target * math.log(p) + (1 - target) * math.log(1 - p)) / len(rows)
    return total


@pytest.mark.parametrize("alpha", [1.0, 0.5, 3.0])
def test_single_by_hand(alpha: float) -> None:
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    output = student(batch)
    loss, logs = single(student, weight=0.3, alpha=alpha).loss(output, batch, student)
    expected = expected_loss(output.logits, batch, alpha)
    assert logs["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(0.3 * expected, rel=1e-5)


@pytest.mark.parametrize("hidden", [[], [4]])
def test_auxiliary_head_by_hand(hidden: list[int]) -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    channel = auxiliary_head(student, weight=0.3, alpha=3.0, hidden=hidden, task_weights={"conversion": 2.0})
    output = student(batch)
    entry = output.taps["penultimate"]
    if hidden:
        layer: Any = channel.head.hidden[0]
        entry = (entry @ layer.weight.T + layer.bias).clamp_min(0)
    logits = entry @ channel.head.output.weight.T + channel.head.output.bias
    loss, logs = channel.loss(output, batch, student)
    expected = expected_loss(logits, batch, 3.0, (1, 2))
    assert logs["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(0.3 * expected, rel=1e-5)


@pytest.mark.parametrize("make", [auxiliary_head, single])
def test_clipped_share_counts_rows_with_a_signal(make: Any) -> None:
    student, batch = make_student("dlrm", SCHEMA), make_batch(SCHEMA, [0] * 4, 0)
    # Twice the probability is above 1 where the logit is above 0: 3 of the 6 targets that count.
    logits = torch.tensor([[1.0, -1.0], [2.0, 3.0], [-1.0, -2.0], [5.0, 5.0]])
    batch = batch.with_teacher(TeacherSignal(logits, torch.tensor([True, True, True, False]), torch.ones(4)))
    _, logs = make(student, alpha=2.0).loss(student(batch), batch, student)
    assert logs["clipped"].item() == 0.5


def test_auxiliary_head_leaves_the_serving_heads_alone() -> None:
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    channel = auxiliary_head(student)
    assert not channel.touches_serving_head
    found = gradients(student, channel, batch)
    assert not found["heads.weight"].any() and not found["heads.bias"].any()
    assert found["deep.0.weight"].any()


KINDS = ("bce", "mse_logit", "mse_probability", "pairwise", "listwise")


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_leaves_the_serving_heads_alone(kind: str) -> None:
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    channel = auxiliary_head(student, loss=kind)
    found = gradients(student, channel, batch)
    assert not found["heads.weight"].any() and not found["heads.bias"].any()
    assert found["deep.0.weight"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_agrees_where_the_head_says_what_the_teacher_says(kind: str) -> None:
    """Of a student of sampled rows, on these rows: with a quarter of the negatives at z_F + log 4."""
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    student.negative_sampling = 0.25
    channel = auxiliary_head(student, loss=kind)
    logits = channel.head(student(batch).taps["penultimate"]).detach()
    mask = torch.ones(len(LENGTHS), dtype=torch.bool)
    agreed = batch.with_teacher(TeacherSignal(logits - math.log(4), mask, mask.float()))
    assert max(g.abs().max().item() for g in gradients(student, channel, agreed).values()) < 1e-7
    assert max(g.abs().max().item() for g in gradients(student, channel, batch).values()) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["deepfm", "dlrm", "dcn_v2", "din"])
def test_a_decoupled_tower_reaches_the_tables_and_nothing_of_the_serving_tower(
    architecture: str, kind: str
) -> None:
    student, batch = make_student(architecture, SCHEMA), batch_of()
    channel = auxiliary_head(student, loss=kind, tap="embedding", hidden=[8, 4])
    before = student.tables.export()
    channel.loss(student(batch), batch, student)[0].backward()
    assert [name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()] == []
    after = student.tables.export()
    moved = {
        name for name in before if name.endswith("weight") and not torch.equal(before[name], after[name])
    }
    assert moved == {f"{feature}.weight" for feature in SCHEMA.sparse}
    weights = [p for p in channel.head.hidden.parameters() if p.dim() == 2]
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)


def test_single_reaches_the_serving_heads() -> None:
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    channel = single(student)
    assert channel.touches_serving_head
    found = gradients(student, channel, batch)
    assert found["heads.weight"].any() and found["heads.bias"].any()


def test_beta_scales_what_the_student_feels() -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    whole, half = (gradients(student, auxiliary_head(student, beta=beta), batch) for beta in (1.0, 0.5))
    for name in whole:
        torch.testing.assert_close(half[name], 0.5 * whole[name])


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_beta_does_not_scale_the_heads_own_gradient(beta: float) -> None:
    own = []
    for factor in (1.0, beta):
        student, batch = make_student("dlrm", SCHEMA), batch_of()
        channel = auxiliary_head(student, beta=factor)
        loss, _ = channel.loss(student(batch), batch, student)
        own.append(torch.autograd.grad(loss, channel.head.output.weight)[0])
    assert own[0].any() and torch.equal(own[0], own[1])


def test_at_beta_zero_the_student_feels_nothing() -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    before = student.tables.export()
    channel = auxiliary_head(student, beta=0.0)
    channel.loss(student(batch), batch, student)[0].backward()
    assert [name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()] == []
    after = student.tables.export()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_gradient_where_student_and_teacher_agree() -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    channel = auxiliary_head(student)
    output = student(batch)
    signal = torch.ones(len(LENGTHS), dtype=torch.bool)
    for make, logits in (
        (channel, channel.head(output.taps["penultimate"])),
        (single(student), output.logits),
    ):
        agreed = batch.with_teacher(TeacherSignal(logits.detach(), signal, torch.ones(len(signal))))
        assert max(g.abs().max().item() for g in gradients(student, make, agreed).values()) < 1e-8


@pytest.mark.parametrize("make", [auxiliary_head, single])
def test_rows_without_a_signal_do_not_count(make: Any) -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    channel, teacher = make(student), batch.teacher
    assert teacher is not None and not teacher.mask.all() and teacher.mask.any()
    other = torch.where(teacher.mask[:, None], teacher.logits, torch.full_like(teacher.logits, 9.0))
    output = student(batch)
    loss, _ = channel.loss(output, batch, student)
    again, _ = channel.loss(output, batch.with_teacher(replace(teacher, logits=other)), student)
    assert torch.equal(loss, again)


@pytest.mark.parametrize("make", [auxiliary_head, single])
def test_batch_without_any_signal_adds_exactly_nothing(make: Any) -> None:
    student, batch = make_student("dlrm", SCHEMA), batch_of()
    assert batch.teacher is not None
    silent = batch.with_teacher(replace(batch.teacher, mask=torch.zeros_like(batch.teacher.mask)))
    channel = make(student)
    loss, logs = channel.loss(student(silent), silent, student)
    assert loss.item() == 0 and logs["clipped"].item() == 0
    assert not any(g.any() for g in gradients(student, channel, silent).values())


@pytest.mark.parametrize("make", [auxiliary_head, single])
def test_a_student_of_one_task_reads_its_own_column(make: Any) -> None:
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
    assert batch.teacher is not None
    output = student(batch)
    channel = make(student)
    logits = output.logits if make is single else channel.head(output.taps["penultimate"])
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    loss, _ = channel.loss(output, batch, student)
    assert loss.item() == pytest.approx(expected_loss(both, batch, 1.0, (0, 1)), rel=1e-5)


def train(channels: list[Any], steps: int = 5) -> dict[str, Tensor]:
    student = make_student("deepfm", SCHEMA)
    built = [make(student, **options) for make, options in channels]
    parameters = [*student.parameters(), *(p for channel in built for p in channel.parameters())]
    adam = torch.optim.Adam(parameters, lr=0.01)
    for step in range(steps):
        batch = batch_of(step)
        adam.zero_grad()
        output = student(batch)
        loss = label_loss(output.logits, batch.labels, batch.label_mask)
        for channel in built:
            loss = loss + channel.loss(output, batch, student)[0]
        loss.backward()
        adam.step()
    return student.state_dict()


@pytest.mark.parametrize(
    "channel",
    [
        (auxiliary_head, {"weight": 0.0}),
        (auxiliary_head, {"beta": 0.0, "hidden": [4]}),
        (auxiliary_head, {"weight": 0.0, "loss": "mse_logit", "tap": "embedding", "hidden": [4]}),
        (auxiliary_head, {"weight": 0.0, "loss": "pairwise"}),
        (auxiliary_head, {"weight": 0.0, "loss": "listwise"}),
        (single, {"weight": 0.0}),
    ],
)
def test_a_channel_that_weighs_nothing_changes_no_bit(channel: Any) -> None:
    alone, beside = train([]), train([channel])
    assert [name for name in alone if not torch.equal(alone[name], beside[name])] == []


def test_a_channel_that_weighs_something_changes_the_student() -> None:
    alone, beside = train([]), train([(auxiliary_head, {})])
    assert not torch.equal(alone["deep.0.weight"], beside["deep.0.weight"])


def test_seed_decides_the_head() -> None:
    student = make_student("dlrm", SCHEMA)
    torch.manual_seed(1)
    first = auxiliary_head(student, seed=3).head.output.weight
    torch.manual_seed(2)
    assert torch.equal(auxiliary_head(student, seed=3).head.output.weight, first)
    assert not torch.equal(auxiliary_head(student, seed=4).head.output.weight, first)


def test_head_starts_at_the_scaled_rate() -> None:
    channel = auxiliary_head(make_student("dlrm", SCHEMA), alpha=0.5)
    rates = {task: torch.tensor([0.4, math.nan, math.nan], dtype=torch.float64) for task in SCHEMA.task_names}
    channel.set_base_rates(rates)
    assert channel.head.output.bias.tolist() == pytest.approx([math.log(0.2 / 0.8)] * 2)


def test_head_of_a_student_of_sampled_rows_starts_at_the_scaled_rate_of_those() -> None:
    """Of 100 positives and 900 negatives a tenth of these is kept: 100 of 190."""
    student = make_student("dlrm", SCHEMA)
    student.negative_sampling = 0.1
    channel = auxiliary_head(student, alpha=0.5)
    rates = {task: torch.tensor([0.1, math.nan, math.nan], dtype=torch.float64) for task in SCHEMA.task_names}
    channel.set_base_rates(rates)
    assert channel.head.output.bias.tolist() == pytest.approx([math.log(50 / 140)] * 2)


def test_the_head_is_no_part_of_the_student() -> None:
    student = make_student("dlrm", SCHEMA)
    names = set(student.state_dict())
    channel = auxiliary_head(student)
    assert set(student.state_dict()) == names
    assert {name for name, _ in channel.named_parameters()} == {"head.output.weight", "head.output.bias"}


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (AuxiliaryHeadConfig, {"weight": -1.0}, "ah.weight: got -1.0, allowed: 0 or more"),
        (AuxiliaryHeadConfig, {"alpha": 0.0}, "ah.alpha: got 0.0, allowed: more than 0"),
        (
            AuxiliaryHeadConfig,
            {"alpha": 2.0, "loss": "pairwise"},
            "ah.alpha: got 2.0, allowed: 1 with the loss 'pairwise', which reads logits; alpha scales probabilities",
        ),
        (AuxiliaryHeadConfig, {"beta": -0.5}, "ah.beta: got -0.5, allowed: 0 or more"),
        (AuxiliaryHeadConfig, {"hidden": [0]}, r"ah.hidden: got \[0\], allowed: widths of at least 1"),
        (
            AuxiliaryHeadConfig,
            {"task_weights": {"click": -1.0}},
            "ah.task_weights: got .*, allowed: 0 or more",
        ),
        (SingleConfig, {"weight": -1.0}, "single.weight: got -1.0"),
        (SingleConfig, {"alpha": -1.0}, "single.alpha: got -1.0"),
    ],
)
def test_settings_out_of_range(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**options)


def test_unknown_tap_and_task() -> None:
    student = make_student("dlrm", SCHEMA)
    with pytest.raises(UserError, match="ah.tap: got 'penultimat', allowed: .*Did you mean 'penultimate'"):
        auxiliary_head(student, tap="penultimat")
    with pytest.raises(
        UserError, match="ah.task_weights: got 'clik', allowed: click, conversion. Did you mean 'click'"
    ):
        auxiliary_head(student, task_weights={"clik": 1.0})


def test_a_head_of_no_weight_asks_for_no_other_rows() -> None:
    student = make_student("deepfm", SCHEMA)
    assert auxiliary_head(student, other_surfaces=0.5).other_surfaces == 0.5
    assert auxiliary_head(student, other_surfaces=0.5, weight=0.0).other_surfaces == 0


def test_labels_as_target_by_hand() -> None:
    """The control: cross-entropy with the labels, and other surfaces' rows must bring theirs."""
    student, batch = make_student("deepfm", SCHEMA), batch_of()
    channel = auxiliary_head(student, other_surfaces=1.0, target="labels", weight=2.0)
    assert channel.other_labels and not auxiliary_head(student, other_surfaces=1.0).other_labels
    output = student(batch)
    logits = channel.head(output.taps["penultimate"]).detach()
    expected = 0.0
    for task in range(2):
        rows = [row for row in range(len(LENGTHS)) if batch.label_mask[row, task]]
        for row in rows:
            z, y = logits[row, task].item(), batch.labels[row, task].item()
            expected += (math.log1p(math.exp(z)) - y * z) / len(rows)
    loss, logs = channel.loss(output, batch, student)
    assert logs["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.01, math.nan])
@pytest.mark.parametrize(
    ("channel", "settings"), [("ah", AuxiliaryHeadConfig), ("adapter", StudentAdapterConfig)]
)
def test_no_share_of_other_surfaces(channel: str, settings: Any, share: float) -> None:
    with pytest.raises(UserError, match=rf"{channel}\.other_surfaces: got .*, allowed: from 0"):
        settings(other_surfaces=share)
