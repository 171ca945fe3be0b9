"""Precision and compilation change no result beyond rounding, and no name of a parameter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.checkpoint import load_model, save_model
from distill.compute import Forward, forward_of
from distill.config import ComputeConfig, OptimizerConfig
from distill.errors import UserError
from distill.losses import label_loss
from distill.module import DistillModule
from distill.protocols import Architecture
from experiments.benchmarks.synthetic import make_batch
from tests.distill.prepared_data import small_schema
from tests.distill.test_flops import MODELS, SCHEMA, Attentive, make_gem, make_student
from tests.distill.tiny_training import Memory, Own, Tiny, state

FP32, BF16, COMPILED = ComputeConfig(), ComputeConfig(precision="bf16"), ComputeConfig(compile=True)
EVERY = MODELS | {name: partial(make_student, name, SCHEMA) for name in ("dlrm", "deepfm")}
LENGTHS = [[4, 0, 1, 3, 2], [0, 4, 4], [3, 1, 2, 2, 4, 0, 1], [0, 0]]
"""Histories of a few batches: other sizes each, at last none at all."""
ROUNDING = 2.0**-8
"""Of one number in bfloat16, relative."""


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def trained(
    make: Callable[[], Architecture], compute: ComputeConfig, batches: list[list[int]] = LENGTHS
) -> tuple[Architecture, Forward, list[float]]:
    """A model after a step a batch, its forward pass, and the losses on the way."""
    torch.manual_seed(0)
    model = make()
    forward, optimizer = forward_of(model, compute), torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for seed, lengths in enumerate(batches):
        batch = make_batch(model.schema, lengths, seed)
        loss = label_loss(forward(batch).logits, batch.labels, batch.label_mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, forward, losses


def predicted(model: Architecture, forward: Forward) -> Tensor:
    """Logits as Lightning asks for them."""
    model.eval()
    with torch.inference_mode():
        return forward(make_batch(model.schema, LENGTHS[0], 0)).logits


@pytest.mark.parametrize("name", EVERY)
def test_bf16_trains_and_predicts_as_fp32_does(name: str) -> None:
    exact, forward, losses = trained(EVERY[name], FP32)
    rounded, rounded_forward, near = trained(EVERY[name], BF16)
    assert near == pytest.approx(losses, rel=ROUNDING) and near != losses
    logits = predicted(exact, forward)
    torch.testing.assert_close(
        predicted(rounded, rounded_forward), logits, atol=2 * ROUNDING, rtol=2 * ROUNDING
    )


@pytest.mark.parametrize("name", ["gem", "din", "dcn_v2"])
def test_bf16_hands_on_float32_and_keeps_float32(name: str) -> None:
    model = MODELS[name]()
    inside: set[torch.dtype] = set()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: inside.add(output.dtype))
    output = forward_of(model, BF16)(make_batch(model.schema, LENGTHS[0], 0))
    output.logits.sum().backward()
    assert torch.bfloat16 in inside
    assert {t.dtype for t in (output.logits, *output.taps.values())} == {torch.float32}
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    floats = [t for t in (*state(model).values(), *gradients) if t.is_floating_point()]
    assert {t.dtype for t in floats} == {torch.float32}


def test_bf16_reaches_training_and_prediction() -> None:
    model, channel, memory = Tiny(small_schema()), Own(), Memory()
    channel.attach(model)
    batch = make_batch(model.schema, [0] * 6, 1)
    module = DistillModule(model, {"own": channel}, OptimizerConfig(), memory, BF16)
    exact = DistillModule(model, {"own": channel}, OptimizerConfig(), Memory()).training_step(batch, 0)
    loss = module.training_step(batch, 0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=ROUNDING) and loss.item() != exact.item()
    module.validation_step(batch, 0)
    (predicted,) = memory.days.values()
    assert predicted.dtype == torch.float32 and not torch.equal(predicted, model(batch).logits)


def seen_by_the_compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all operators in the graphs of models compiled from now on; the graphs run uncompiled."""
    operators: list[str] = []

    def collect(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=collect))
    return operators


def test_tables_are_no_part_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    operators = seen_by_the_compiler(monkeypatch)
    trained(Attentive, COMPILED)
    assert any("jagged_softmax_attention" in operator for operator in operators)
    assert not any("fbgemm" in operator or "embedding_codegen" in operator for operator in operators)


def same_parameters(model: Architecture, other: Architecture) -> None:
    """To 1e-5, under the same names."""
    mine, others = model.state_dict(), other.state_dict()
    assert list(mine) == list(others)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, others[name], atol=1e-5, rtol=1e-5)


def test_traced_with_its_gradients_gem_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that compilation does but code: shapes of any size, operators of ours and their gradients."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, forward, losses = trained(partial(make_gem, layers=1), FP32, LENGTHS[:2])
    traced, traced_forward, near = trained(partial(make_gem, layers=1), COMPILED, LENGTHS[:2])
    assert near == pytest.approx(losses, rel=1e-5)
    same_parameters(traced, plain)
    torch.testing.assert_close(
        predicted(traced, traced_forward), predicted(plain, forward), atol=1e-5, rtol=1e-5
    )


def test_without_a_compiler_it_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="compute.compile: got true, .* no C.. compiler 'no-such-compiler'"):
        DistillModule(Tiny(small_schema()), {}, OptimizerConfig(), Memory(), COMPILED)


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_code_equals_the_model(tmp_path: Path) -> None:
    """One small model, batches of one size: the C++ compiler takes its time."""
    plain, _, losses = trained(lambda: Tiny(small_schema()), FP32, LENGTHS[:1] * 3)
    compiled, _, near = trained(lambda: Tiny(small_schema()), COMPILED, LENGTHS[:1] * 3)
    assert near == pytest.approx(losses, rel=1e-5)
    same_parameters(compiled, plain)
    save_model(compiled, tmp_path / "model.safetensors", {})
    other = Tiny(small_schema(), seed=1)
    load_model(other, tmp_path / "model.safetensors")
    batch = make_batch(other.schema, LENGTHS[0], 0)
    assert torch.equal(other(batch).logits, compiled(batch).logits)
