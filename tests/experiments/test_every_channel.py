"""What holds for every registered channel: where its gradient goes, and what is left of it to serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distill.batch import Batch
from distill.checkpoint import load_model, save_model
from distill.protocols import Channel
from distill.registry import CHANNELS
from experiments.benchmarks.synthetic import make_batch
from students.base import Student
from tests.adapters.built_students import SCHEMA, built, train
from tests.adapters.past_data import make_past

WIDTH = 32
LENGTHS = [3, 0, 2, 5, 1, 4, 2, 3]
PAST = [2, 0, 3, 1, 4, 0, 2, 1]
OPTIONS: dict[str, dict[str, Any]] = {"repr": {"group": "both"}, "pfd": {"warmup_examples": 0}}
NAMES = tuple(CHANNELS)
HEAD = "heads."
SERVED = ("inputs.", "event_inputs.")


def make(seed: int) -> tuple[Batch, list[Tensor]]:
    """A batch with whatever a channel may need, and what is the teacher's in it, which asks for a gradient."""
    batch = make_batch(SCHEMA, LENGTHS, seed)
    assert batch.teacher is not None
    torch.manual_seed(seed)
    logits = batch.teacher.logits.clone().requires_grad_()
    z = (torch.rand(len(batch), WIDTH) * 2 - 1).requires_grad_()
    other = torch.randn_like(batch.teacher.logits).requires_grad_()
    pasts = {
        "user": make_past(batch.timestamp, PAST, WIDTH, seed),
        "item": make_past(batch.timestamp, [min(n, 1) for n in PAST], WIDTH, seed + 1),
    }
    of_past = {name: past.values.clone().requires_grad_() for name, past in pasts.items()}
    batch = replace(
        batch,
        teacher=replace(batch.teacher, logits=logits, representation=z),
        others={"domain": replace(batch.teacher, logits=other)},
        past={name: replace(past, values=of_past[name]) for name, past in pasts.items()},
    )
    return batch, [logits, z, other, *of_past.values()]


def with_channel(name: str, **changes: Any) -> tuple[Student, dict[str, Channel]]:
    return built("deepfm", {name: OPTIONS.get(name, {}) | changes})


@pytest.mark.parametrize("name", NAMES)
def test_loss_reaches_the_serving_head_where_the_channel_says_so(name: str) -> None:
    student, channels = with_channel(name)
    batch, _ = make(1)
    loss, _ = channels[name].loss(student(batch), batch, student)
    parameters = dict(student.named_parameters())
    head = [parameters[key] for key in parameters if key.startswith(HEAD)]
    gradients = (
        torch.autograd.grad(loss, head, allow_unused=True) if loss.requires_grad else [None] * len(head)
    )
    reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    assert len(head) == 2 and reached == [channels[name].touches_serving_head] * 2


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_feels_nothing(name: str) -> None:
    """Past representations are inputs: what the student makes of them is learnt, they themselves are not."""
    student, channels = with_channel(name)
    batch, of_teacher = make(1)
    output = student(batch)
    channels[name].step(output, batch)
    loss, _ = channels[name].loss(output, batch, student)
    if loss.requires_grad:
        for gradient in torch.autograd.grad(loss, of_teacher, allow_unused=True):
            assert gradient is None or not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_of_a_student_is_what_is_served(name: str, tmp_path: Path) -> None:
    """Nothing of training's own parts, and the same predictions from it."""
    student, channels = with_channel(name)
    train(student, channels, [make(seed)[0] for seed in (1, 2)])
    save_model(student, tmp_path / "model.safetensors", {})
    saved = load_file(tmp_path / "model.safetensors")
    plain, _ = built("deepfm", {})
    further = [key for key in saved if key not in plain.state_dict()]
    assert all(key.startswith(SERVED) for key in further)
    assert bool(further) == bool(channels[name].fields)

    restored, _ = with_channel(name)
    load_model(restored, tmp_path / "model.safetensors")
    batch, _ = make(3)
    with torch.no_grad():
        assert torch.equal(restored.eval()(batch).logits, student.eval()(batch).logits)


@pytest.mark.parametrize("name", ["ah", "adapter", "gated", "fitnets", "single", "pfd"])
def test_weight_of_zero_trains_the_student_as_without_the_channel(name: str) -> None:
    batches = [make(seed)[0] for seed in (1, 2, 3)]
    expected = train(*built("deepfm", {}), batches)
    found = train(*with_channel(name, weight=0.0), batches)
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
