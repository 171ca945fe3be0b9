"""The training step: which losses are added, what stops it, what clipping reaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.config import OptimizerConfig
from distill.dataset import DataSet
from distill.distributed.share import Share
from distill.errors import NonFiniteError, UserError
from distill.module import DistillModule
from distill.protocols import Architecture, Output
from tests.distill.prepared_data import write_small
from tests.distill.tiny_training import Memory, Own, Tiny, changed, days_of, one_by_one, state, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Three days of 10 rows."""
    return write_small(tmp_path_factory.mktemp("data") / "small", days=3)


def first_batch(data: DataSet) -> Batch:
    return next(iter(days_of(data, batch_size=8)(1, True)))


def step(model: Architecture, batch: Batch, *channels: Own) -> float:
    for channel in channels:
        channel.attach(model)
    named = {f"own{place}": channel for place, channel in enumerate(channels)}
    module = DistillModule(model, named, OptimizerConfig(), Memory())
    return module.training_step(batch, 0).item()


def by_hand(logits: Tensor, batch: Batch) -> float:
    """Mean cross-entropy of each task's known labels, summed."""
    z = logits.detach().double().numpy()
    known, y = batch.label_mask.numpy(), batch.labels.numpy()
    rows = np.logaddexp(0, z) - y * z
    return sum(rows[known[:, k], k].mean() for k in range(z.shape[1]))


def test_loss_of_known_labels(data: DataSet) -> None:
    batch, model = first_batch(data), Tiny(data.schema)
    assert not batch.label_mask.all() and batch.label_mask.any(0).all()
    assert step(model, batch) == pytest.approx(by_hand(model(batch).logits, batch), rel=1e-6)


def test_targets_may_be_larger_than_1(data: DataSet) -> None:
    batch, model = first_batch(data), Tiny(data.schema)
    batch = replace(batch, labels=batch.labels * 7.5)
    assert (batch.labels > 1).any()
    assert step(model, batch) == pytest.approx(by_hand(model(batch).logits, batch), rel=1e-6)


def test_only_the_models_tasks_count(data: DataSet) -> None:
    class OneTask(Tiny):
        def forward(self, batch: Batch) -> Output:
            output = super().forward(batch)
            return Output(output.logits[:, 1:], output.taps)

    batch, model = first_batch(data), OneTask(data.schema)
    both = Tiny(data.schema)(batch).logits.detach().double().numpy()
    model.tasks = ("order",)
    known, y = batch.label_mask[:, 1].numpy(), batch.labels[:, 1].numpy()
    expected = (np.logaddexp(0, both[:, 1]) - y * both[:, 1])[known].mean()
    assert step(model, batch) == pytest.approx(expected, rel=1e-6)


class WithOwn(Tiny):
    """Adds 0, 1, 2, ... to the losses of the examples."""

    def forward(self, batch: Batch) -> Output:
        return replace(super().forward(batch), own_loss=torch.arange(float(len(batch))))


def test_models_own_loss_is_added_as_a_mean_over_examples(data: DataSet) -> None:
    batch = first_batch(data)
    added = step(WithOwn(data.schema), batch) - step(Tiny(data.schema), batch)
    assert added == pytest.approx((len(batch) - 1) / 2, rel=1e-5)


def test_share_of_a_models_own_loss_is_that_of_the_whole_batchs_examples(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, the other one with three times as many examples: the mean of both counts each example once."""
    batch = first_batch(data)
    monkeypatch.setattr("distill.module.processes", lambda: 2)
    monkeypatch.setattr("distill.module.share_of_labels", lambda mask: lambda: Share(None, 4 * len(batch)))
    added = step(WithOwn(data.schema), batch) - step(Tiny(data.schema), batch)
    assert added == pytest.approx(2 * sum(range(len(batch))) / (4 * len(batch)), rel=1e-5)


def test_losses_of_all_channels_are_added(data: DataSet) -> None:
    batch, model = first_batch(data), Tiny(data.schema)
    once, twice = Own(weight=1.0), Own(weight=2.0)
    own = step(model, batch, once) - step(model, batch)
    assert own > 0.1
    assert step(model, batch, once, twice) - step(model, batch) == pytest.approx(3 * own, rel=1e-5)


def test_channel_takes_its_own_step_before_its_loss(data: DataSet) -> None:
    channel = Own()
    step(Tiny(data.schema), first_batch(data), channel)
    assert channel.calls == ["step", "loss"]


def test_means_are_over_the_steps_of_the_day(data: DataSet) -> None:
    losses: dict[int, dict[int, float]] = {
        1: {},
        2: {},
    }  # by the batch's first example: one is run twice, for its FLOPs

    class Watching(Tiny):
        def forward(self, batch: Batch) -> Output:
            output = super().forward(batch)
            if self.training:
                losses[batch.day][int(batch.example_id[0])] = by_hand(output.logits, batch)
            return output

    _, reports = train(Watching(data.schema), data, one_by_one(3))
    assert [len(of_day) for of_day in losses.values()] == [3, 3]
    for report in reports:
        of_day = list(losses[report.day].values())
        assert report.means == {"loss_labels": pytest.approx(np.mean(of_day), rel=1e-6)}
    assert [report.examples_seen for report in reports] == [10, 20]


def test_means_of_what_channels_log(data: DataSet) -> None:
    _, (report, _) = train(Tiny(data.schema), data, one_by_one(3), [Own()])
    assert set(report.means) == {"loss_labels", "own/loss"} and report.means["own/loss"] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_loss_stops_before_any_update(data: DataSet, value: float) -> None:
    before: dict[str, Tensor] = {}

    def watch(batch: Batch, training: bool) -> float:
        if not (training and batch.day == 2 and batch.example_id[0] == 200_004):
            return 0.0
        before.update(state(model))
        return value

    model = Tiny(data.schema, watch=watch)
    with pytest.raises(NonFiniteError, match=r"loss is (nan|inf) on day 2, batch 1 \(examples 200004 and"):
        train(model, data, one_by_one(3), [Own()])
    assert changed(before, state(model)) == set()


def test_non_finite_loss_of_a_channel_stops_before_any_update(data: DataSet) -> None:
    class Broken(Own):
        def loss(
            self, output: Output, batch: Batch, student: Architecture
        ) -> tuple[Tensor, dict[str, Tensor]]:
            loss, logs = super().loss(output, batch, student)
            return loss * torch.nan, logs

    model = Tiny(data.schema)
    before = state(model)
    with pytest.raises(NonFiniteError, match="loss is nan on day 1, batch 0"):
        train(model, data, one_by_one(3), [Broken()])
    assert changed(before, state(model)) == set()


def test_channel_takes_no_step_of_its_own_after_a_non_finite_loss(data: DataSet) -> None:
    channel = Own()
    with pytest.raises(NonFiniteError):
        step(Tiny(data.schema, watch=lambda batch, training: torch.nan), first_batch(data), channel)
    assert channel.calls == []


class _Explode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.inf


def test_non_finite_embedding_gradient_stops_before_any_update(data: DataSet) -> None:
    before: dict[str, Tensor] = {}

    class Exploding(Tiny):
        def forward(self, batch: Batch) -> Output:
            found = self.tables(batch.sparse).features
            if self.training and batch.day == 2 and batch.example_id[0] == 200_008:
                before.update(state(self))
                found = _Explode.apply(found)
            hidden = self.hidden(found.flatten(1))
            return Output(self.head(hidden), {"penultimate": hidden})

    model = Exploding(data.schema)
    with pytest.raises(NonFiniteError, match=r"embedding gradient: .* on day 2, batch 2 \(examples 200008"):
        train(model, data, one_by_one(3), [Own()])
    assert changed(before, state(model)) == set()


def one_step(
    data: DataSet, *channels: Own, clip_norm: float = 0.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the dense parameters and change of the tables in one step of SGD-like size."""
    model = Tiny(data.schema)
    for channel in channels:
        channel.attach(model)
    named = {f"own{place}": channel for place, channel in enumerate(channels)}
    module = DistillModule(model, named, OptimizerConfig(clip_norm=clip_norm), Memory())
    before = model.tables.export()
    module.training_step(first_batch(data), 0).backward()
    module.on_before_optimizer_step(module.configure_optimizers())
    moved = {name: tensor - before[name] for name, tensor in model.tables.export().items()}
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return gradients, moved


def norm(gradients: dict[str, Tensor], part: str) -> float:
    squares = [g.double().square().sum() for name, g in gradients.items() if name.startswith(part)]
    return float(torch.stack(squares).sum().sqrt())


def test_clipping_reaches_dense_parameters_only(data: DataSet) -> None:
    free, free_tables = one_step(data)
    clipped, clipped_tables = one_step(data, clip_norm=0.01)
    assert norm(free, "model") > 0.02
    assert norm(clipped, "model") == pytest.approx(0.01, rel=1e-3)
    assert changed(free_tables, clipped_tables) == set()
    assert any(moved.abs().max() > 0 for moved in free_tables.values())


def test_small_gradients_are_not_clipped(data: DataSet) -> None:
    assert changed(one_step(data)[0], one_step(data, clip_norm=1e3)[0]) == set()


def test_channels_gradient_does_not_shrink_the_students(data: DataSet) -> None:
    """The head of the channel has a large gradient of its own, and beta = 0 would send none on."""

    class Detached(Own):
        def loss(
            self, output: Output, batch: Batch, student: Architecture
        ) -> tuple[Tensor, dict[str, Tensor]]:
            loss = 100 * (self.head(output.taps["penultimate"].detach()) - 1).square().mean()
            return loss, {}

    alone, _ = one_step(data, clip_norm=0.01)
    beside, _ = one_step(data, Detached(), clip_norm=0.01)
    assert norm(beside, "channels") == pytest.approx(0.01, rel=1e-3)
    assert changed(alone, {name: g for name, g in beside.items() if name.startswith("model")}) == set()


class Halved(Own):
    """Its bias is trained by an optimiser of its own."""

    def dense_parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())[:1]


def test_what_a_channel_trains_by_itself_is_neither_optimised_nor_clipped(data: DataSet) -> None:
    free, _ = one_step(data, Halved(weight=100.0))
    clipped, _ = one_step(data, Halved(weight=100.0), clip_norm=0.01)
    assert norm(clipped, "channels.own0.head.weight") == pytest.approx(0.01, rel=1e-3)
    assert torch.equal(free["channels.own0.head.bias"], clipped["channels.own0.head.bias"])
    channel = Halved()
    channel.attach(Tiny(data.schema))
    module = DistillModule(Tiny(data.schema), {"halved": channel}, OptimizerConfig(), Memory())
    optimized = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert id(channel.head.weight) in optimized and id(channel.head.bias) not in optimized


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.01, "weight_decay": 0.1}])
def test_channel_of_weight_zero_changes_nothing(data: DataSet, settings: dict[str, Any]) -> None:
    alone, beside = Tiny(data.schema, dropout=0.5), Tiny(data.schema, dropout=0.5)
    expected, _ = train(alone, data, one_by_one(3), **settings)
    found, _ = train(beside, data, one_by_one(3), [Own(weight=0.0)], **settings)
    assert changed(state(alone), state(beside)) == set()
    assert expected.days.keys() == found.days.keys() == {2, 3}
    assert all(torch.equal(logits, found.days[day]) for day, logits in expected.days.items())


def test_labels_of_a_student_of_sampled_rows_are_compared_on_those_rows(data: DataSet) -> None:
    batch, model = first_batch(data), Tiny(data.schema)
    logits = model(batch).logits
    model.negative_sampling = 0.25
    assert step(model, batch) == pytest.approx(by_hand(logits + np.log(4), batch), rel=1e-6)


def test_its_predictions_are_of_all_rows(data: DataSet) -> None:
    batch, model = first_batch(data), Tiny(data.schema)
    before, memory = model(batch).logits, Memory()
    model.negative_sampling = 0.25
    DistillModule(model, {}, OptimizerConfig(), memory).validation_step(batch, 0)
    assert torch.equal(memory.days[1], before)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches: got 2, allowed: 1, because tables step"),
        (
            {"gradient_clip_val": 0.5},
            "gradient_clip_val: got 0.5, allowed: none, because tables have stepped",
        ),
    ],
)
def test_a_trainer_that_would_pass_the_tables_by_is_refused(
    data: DataSet, setting: dict[str, Any], message: str
) -> None:
    model = Tiny(data.schema)
    before = state(model)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        **setting,
    )
    with pytest.raises(UserError, match=message):
        trainer.fit(DistillModule(model, {}, OptimizerConfig(), Memory()), days_of(data)(1, True))
    assert not changed(before, state(model))
