"""The autoencoder of representations: its loss, its statistics, and that the teacher does not feel it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.autoencoder import Autoencoder, Standardize
from distill.batch import Batch
from distill.checkpoint import load_model, save_model
from distill.config import OptimizerConfig, RepresentationConfig
from distill.errors import NonFiniteError, UserError
from distill.module import DistillModule
from distill.protocols import Architecture, Output
from experiments.benchmarks.synthetic import make_batch, make_schema
from students.base import Student
from tests.students.models import make_student

Array = NDArray[np.float64]
SCHEMA = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"))
TAPS = ["embedding", "penultimate"]
WIDTHS = [12, 5]


def batch_of(seed: int = 0, examples: int = 6) -> Batch:
    return make_batch(SCHEMA, [0] * examples, seed)


def teacher(seed: int = 0) -> Student:
    """Any architecture serves as a teacher; this one's taps have 12 and 5 columns."""
    return make_student("dlrm", SCHEMA, seed)


def autoencoder(model: Architecture, seed: int = 0, **settings: Any) -> Autoencoder:
    channel = Autoencoder(RepresentationConfig(**{"taps": TAPS, "dim": 4, "hidden": [6], **settings}), seed)
    channel.attach(model)
    return channel


def outputs(rows: Array) -> Output:
    """An output whose taps are these columns."""
    taps = torch.from_numpy(rows).float()
    return Output(torch.zeros(len(rows), 2), dict(zip(TAPS, taps.split(WIDTHS, dim=1), strict=True)))


def correlated(rows: int, seed: int) -> Array:
    """Two hidden numbers behind all 17 columns, taps of different size."""
    hidden = np.random.default_rng(seed).normal(size=(rows, 2))
    mixing = np.random.default_rng(99).normal(size=(2, sum(WIDTHS)))
    return (hidden @ mixing) * np.repeat([0.01, 10.0], WIDTHS) + np.repeat([0.5, -3.0], WIDTHS)


class Restated:
    """An autoencoder's numbers in double precision, written out."""

    def __init__(self, channel: Autoencoder):
        self.channel = channel
        self.parameters = {name: p.detach().double() for name, p in channel.named_parameters()}

    def layers(self, part: str, x: Tensor) -> Tensor:
        for place in ("0", "2"):
            x = x @ self.parameters[f"{part}.{place}.weight"].T + self.parameters[f"{part}.{place}.bias"]
            x = x.clamp_min(0) if place == "0" else x
        return x

    def target(self, rows: Array) -> Tensor:
        """Columns less their means; each tap brought to an equal part of all 17 in squared length."""
        mean = self.channel.standardize.mean.double().numpy()
        variance = self.channel.standardize.variance.double().numpy()
        parts = np.split(rows - mean, np.cumsum(WIDTHS)[:-1], axis=1)
        each = sum(WIDTHS) / len(WIDTHS)
        parts = [p / np.sqrt(v) * np.sqrt(each / w) for p, v, w in zip(parts, variance, WIDTHS, strict=True)]
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def z(self, target: Tensor) -> Tensor:
        return self.layers("encoder", target).tanh()

    def losses(self, target: Tensor, widths: list[int]) -> Tensor:
        """For every prefix mean (e - e_hat)^2 with the rest of z at 0."""
        z = self.z(target)
        found = []
        for width in widths:
            kept = torch.cat([z[:, :width], torch.zeros_like(z[:, width:])], dim=1)
            found.append((target - self.layers("decoder", kept)).square().sum() / target.numel())
        return torch.stack(found)


def test_encode_by_hand() -> None:
    channel, rows = autoencoder(teacher()), correlated(50, 0)
    channel.step(outputs(rows), batch_of())
    restated, others = Restated(channel), correlated(8, 1)
    z = channel.encode(outputs(others))
    assert z.shape == (8, 4) and z.dtype == torch.float32 and (z.abs() <= 1).all()
    torch.testing.assert_close(z.double(), restated.z(restated.target(others)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefixes", [[], [1], [1, 3]])
def test_loss_and_its_gradient_by_hand(prefixes: list[int]) -> None:
    channel, rows = autoencoder(teacher(), prefixes=prefixes), correlated(50, 0)
    restated = Restated(channel)  # before the step
    channel.step(outputs(rows), batch_of())
    target = restated.target(rows)
    for parameter in restated.parameters.values():
        parameter.requires_grad_()
    losses = restated.losses(target, [*prefixes, 4])
    losses.mean().backward()
    for name, parameter in channel.named_parameters():
        expected, found = restated.parameters[name].grad, parameter.grad
        assert expected is not None and found is not None and found.any()
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-4)
    _, logs = channel.loss(outputs(rows), batch_of(), teacher())
    explained = (1 - losses / target.square().mean()).tolist()
    names = [f"explained_{width}" for width in prefixes] + ["explained"]
    expected_logs = {"loss": losses.mean().item(), **dict(zip(names, explained, strict=True))}
    assert {name: value.item() for name, value in logs.items()} == pytest.approx(expected_logs, abs=1e-5)


def test_step_is_adams() -> None:
    channel = autoencoder(teacher(), learning_rate=0.01)
    before = {name: p.detach().clone() for name, p in channel.named_parameters()}
    channel.step(outputs(correlated(50, 0)), batch_of())
    for name, parameter in channel.named_parameters():
        assert parameter.grad is not None
        # The first step of Adam: learning rate times the sign of the gradient.
        moved, sure = parameter - before[name], parameter.grad.abs() > 1e-5
        torch.testing.assert_close(moved[sure], -0.01 * parameter.grad[sure].sign(), rtol=0.01, atol=0)


def test_explains_what_two_numbers_are_behind() -> None:
    channel = autoencoder(teacher(), prefixes=[2], hidden=[], learning_rate=0.02)
    for step in range(400):
        rows = correlated(64, step)
        channel.step(outputs(rows), batch_of())
    _, logs = channel.loss(outputs(rows), batch_of(), teacher())
    assert logs["explained"] > 0.95 and logs["explained_2"] > 0.9


def test_prefix_stands_alone_when_trained_to() -> None:
    shares = []
    for prefixes in ([], [2]):
        channel = autoencoder(teacher(), prefixes=prefixes, hidden=[], learning_rate=0.02)
        for step in range(300):
            channel.step(outputs(correlated(64, step)), batch_of())
        target = channel.standardize(torch.from_numpy(correlated(500, 999)).float())
        z = channel.encoder(target)
        z[:, 2:] = 0
        shares.append(1 - ((channel.decoder(z) - target).square().mean() / target.square().mean()).item())
    assert shares[1] > 0.9 > shares[0]


def test_statistics_are_those_of_all_rows_at_first() -> None:
    standardize = Standardize(WIDTHS)
    batches = [correlated(20, seed) + seed for seed in range(20)]
    for rows in batches:
        standardize.update(torch.from_numpy(rows).float())
    rows = np.concatenate(batches)
    np.testing.assert_allclose(standardize.mean, rows.mean(0), rtol=1e-4)
    parts = np.split(rows.var(0), np.cumsum(WIDTHS)[:-1])
    np.testing.assert_allclose(standardize.variance, [part.mean() for part in parts], rtol=1e-3)


def test_statistics_follow_a_teacher_that_moves() -> None:
    standardize = Standardize(WIDTHS)
    for _ in range(150):
        standardize.update(torch.from_numpy(correlated(20, 0)).float())
    for _ in range(400):
        standardize.update(torch.from_numpy(3 * correlated(20, 0) + 7).float())
    rows = 3 * correlated(20, 0) + 7
    np.testing.assert_allclose(standardize.mean, rows.mean(0), rtol=1e-2)
    parts = np.split(rows.var(0), np.cumsum(WIDTHS)[:-1])
    np.testing.assert_allclose(standardize.variance, [part.mean() for part in parts], rtol=0.1)


def test_no_tap_dominates_by_width_or_size() -> None:
    standardize, rows = Standardize(WIDTHS), torch.from_numpy(correlated(200, 0)).float()
    standardize.update(rows)
    squares = [part.square().sum(1).mean().item() for part in standardize(rows).split(WIDTHS, dim=1)]
    assert squares == pytest.approx([sum(WIDTHS) / 2] * 2, rel=1e-4)


def test_small_columns_of_a_tap_stay_small() -> None:
    standardize, rows = Standardize([3]), torch.randn(1000, 3) * torch.tensor([1.0, 1.0, 1e-4])
    standardize.update(rows)
    assert standardize(rows).std(0)[2] < 1e-3


def test_tap_that_never_varies_and_batches_of_one() -> None:
    channel = autoencoder(teacher())
    constant = correlated(20, 0)
    constant[:, : WIDTHS[0]] = 0.5
    for rows in (constant[:1], constant, constant[:1]):
        channel.step(outputs(rows), batch_of())
    _, logs = channel.loss(outputs(constant), batch_of(), teacher())
    assert all(torch.isfinite(value) for value in logs.values())
    assert torch.isfinite(channel.encode(outputs(constant))).all()


def test_empty_batch_is_encoded_to_nothing() -> None:
    assert autoencoder(teacher()).encode(outputs(np.empty((0, 17)))).shape == (0, 4)


def test_gradient_into_the_teacher_is_exactly_zero() -> None:
    model, batch = teacher(), batch_of()
    channel = autoencoder(model, prefixes=[2])
    tables = model.tables.export()
    output = model(batch)
    channel.step(output, batch)
    loss, _ = channel.loss(output, batch, model)
    assert loss.item() == 0 and not loss.requires_grad
    assert [name for name, p in model.named_parameters() if p.grad is not None] == []
    after = model.tables.export()
    assert all(torch.equal(tables[name], after[name]) for name in tables)
    taps = [output.taps[tap] for tap in TAPS]
    assert all(tap.requires_grad for tap in taps)
    found = torch.autograd.grad(channel.encode(output).sum(), taps, allow_unused=True)
    assert found == (None, None)


def train(representation: bool, **settings: Any) -> dict[str, Tensor]:
    """A few steps of the real module, with the teacher's dropout-free parameters as they are after."""
    model = teacher()
    channels = {"representation": autoencoder(model, prefixes=[2])} if representation else {}
    module = DistillModule(model, channels, OptimizerConfig(learning_rate=0.01, **settings), recorder=None)  # type: ignore[arg-type]
    adam = module.configure_optimizers()
    for step in range(5):
        adam.zero_grad()
        module.training_step(batch_of(step), step).backward()
        module.on_before_optimizer_step(adam)
        adam.step()
    return {**model.state_dict(), "random": torch.rand(3)}


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.01, "weight_decay": 0.1}])
def test_teacher_is_bit_identical_with_and_without(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    alone = train(False, **settings)
    torch.manual_seed(0)
    beside = train(True, **settings)
    assert [name for name in alone if not torch.equal(alone[name], beside[name])] == []


def test_the_modules_optimizer_and_its_clipping_leave_it_alone() -> None:
    model = teacher()
    channel = autoencoder(model)
    module = DistillModule(model, {"own": channel}, OptimizerConfig(clip_norm=1e-6), recorder=None)  # type: ignore[arg-type]
    adam = module.configure_optimizers()
    assert not {id(p) for group in adam.param_groups for p in group["params"]} & {
        id(p) for p in channel.parameters()
    }
    module.training_step(batch_of(), 0).backward()
    gradients = [p.grad.clone() for p in channel.parameters() if p.grad is not None]
    module.on_before_optimizer_step(adam)
    assert gradients and all(
        torch.equal(gradient, p.grad)  # type: ignore[arg-type]
        for gradient, p in zip(gradients, channel.parameters(), strict=True)
    )


def test_seed_decides_the_initial_values() -> None:
    model = teacher()
    torch.manual_seed(1)
    first = autoencoder(model, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = autoencoder(model, seed=3).state_dict(), autoencoder(model, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.0.weight"], other["encoder.0.weight"])


def test_saved_teacher_and_autoencoder_give_identical_representations(tmp_path: Path) -> None:
    model, path = teacher(), tmp_path / "day.safetensors"
    channel = autoencoder(model, prefixes=[2])
    for step in range(3):
        channel.step(model(batch_of(step)), batch_of(step))
    save_model(model, path, {}, {"representation": channel})
    other = teacher(seed=9)
    restored = autoencoder(other, seed=9, prefixes=[2])
    load_model(other, path, {"representation": restored})
    with torch.inference_mode():
        expected = channel.encode(model(batch_of(7)))
        assert torch.equal(restored.encode(other(batch_of(7))), expected)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("penultimat", "got 'penultimat', allowed: embedding, penultimate. Did you mean 'penultimate'?"),
        ("cross", "got 'cross', allowed: embedding, penultimate."),
    ],
)
def test_unknown_tap(tap: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        autoencoder(teacher(), taps=["embedding", tap])
    assert str(caught.value) == f"teacher.representation.taps: {message}"


def test_tap_that_is_not_finite_stops_before_any_update() -> None:
    channel = autoencoder(teacher())
    before = {name: p.detach().clone() for name, p in channel.named_parameters()}
    rows = correlated(6, 0)
    rows[2, 3] = np.inf
    with pytest.raises(NonFiniteError, match=r"reconstruction loss is nan on day 1 \(examples 0 and"):
        channel.step(outputs(rows), batch_of())
    assert all(torch.equal(before[name], p) for name, p in channel.named_parameters())


def test_names_of_what_is_kept() -> None:
    channel = autoencoder(teacher())
    assert not channel.needs and not channel.touches_serving_head and not list(channel.dense_parameters())
    assert set(channel.state_dict()) == {
        *(f"standardize.{name}" for name in ("mean", "variance", "steps")),
        *(
            f"{part}.{place}.{kind}"
            for part in ("encoder", "decoder")
            for place in (0, 2)
            for kind in ("weight", "bias")
        ),
    }
