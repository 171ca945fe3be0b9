"""Students, batches of two teachers, and the channels that learn their own target, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.adapter_config import GatedConfig, StudentAdapterConfig
from adapters.gate import Gated
from adapters.gate import build as build_gated
from adapters.learnt_target import LearntTarget
from adapters.student_adapter import StudentAdapter
from adapters.student_adapter import build as build_adapter
from distill.batch import Batch, TeacherSignal
from experiments.benchmarks.synthetic import make_batch, make_schema
from students.base import Student

Array = NDArray[np.float64]
SCHEMA = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"))
ROWS = 8


def batch_of(seed: int = 0, rows: int = ROWS) -> Batch:
    """With a second teacher, `apps`; some rows are known to both, to one and to none, some labels matured."""
    batch = make_batch(SCHEMA, [0] * rows, seed)
    other = make_batch(SCHEMA, [0] * rows, seed + 1000)
    assert batch.teacher is not None and other.teacher is not None
    matured = batch.label_mask & (torch.arange(rows).unsqueeze(1) % 4 > 0)
    return replace(batch, matured=matured, others={"apps": other.teacher})


def adapter(student: Student, seed: int = 0, **options: Any) -> StudentAdapter:
    channel = build_adapter(StudentAdapterConfig(**{"layers": [6], **options}), SCHEMA, seed)
    channel.attach(student)
    return channel


def gated(student: Student, seed: int = 0, **options: Any) -> Gated:
    channel = build_gated(GatedConfig(**{"layers": [6], **options}), SCHEMA, seed)
    channel.attach(student)
    return channel


def stir(channel: LearntTarget) -> None:
    """Parameters of the estimator that are no zeros, as if it had learnt for a while."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in channel.estimator.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)


def own_state(channel: LearntTarget) -> dict[str, Tensor]:
    """The estimator's parameters, copied."""
    return {name: tensor.clone() for name, tensor in channel.estimator.state_dict().items()}


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def network(channel: LearntTarget, inputs: Array) -> Array:
    """What the estimator's layers, of one hidden layer, make of their inputs."""
    parts = {name: array(p) for name, p in channel.estimator.named_parameters()}
    hidden = np.maximum(inputs @ parts["0.weight"].T + parts["0.bias"], 0)
    return hidden @ parts["2.weight"].T + parts["2.bias"]


def target(channel: LearntTarget, batch: Batch) -> tuple[Array, NDArray[np.bool_]]:
    """The target as a probability [B, k] and the rows that have one [B], written out."""
    signals = [batch.teacher, *batch.others.values()]
    logits = np.stack([array(s.logits) for s in signals if s is not None], axis=1)
    known = np.stack([s.mask.numpy() for s in signals if s is not None], axis=1)
    if isinstance(channel, StudentAdapter):
        own = logits[:, 0]
        moved = network(channel, own)
        return sigmoid(own + moved if channel.config.residual else moved), known[:, 0]
    assert isinstance(channel, Gated)
    scores = np.zeros_like(logits)
    if channel.config.gate == "learned":
        scores = network(channel, logits.reshape(len(batch), -1)).reshape(scores.shape)
    weights = np.exp(scores) * known[:, :, None]
    some = np.logical_or.reduce(known, axis=1)
    weights[~some] = 1  # of rows that do not count
    return (weights * sigmoid(logits)).sum(1) / weights.sum(1), some


def cross_entropy(p: Array, y: Array, mask: NDArray[np.bool_], weights: Sequence[float] = (1, 1)) -> float:
    """Mean over each task's rows, times its weight, summed."""
    rows = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    means = [rows[mask[:, k], k].mean() if mask[:, k].any() else 0.0 for k in range(p.shape[1])]
    return float(np.dot(weights, means))


def silent(batch: Batch) -> Batch:
    """The same examples, of which no teacher knows anything."""
    assert batch.teacher is not None

    def without(signal: TeacherSignal) -> TeacherSignal:
        nothing = torch.zeros_like(signal.mask)
        return TeacherSignal(torch.zeros_like(signal.logits), nothing, nothing.float())

    others = {name: without(signal) for name, signal in batch.others.items()}
    return replace(batch, teacher=without(batch.teacher), others=others)
