"""A tiny GEM, its snapshots, and students that take parts of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import experiments.catalog  # noqa: F401  fills the registries
from adapters.sharing import Sharing
from adapters.sharing import build as build_sharing
from adapters.sharing_config import SharingConfig
from distill.batch import Batch
from distill.checkpoint import save_model
from distill.config import OptimizerConfig, StudentConfig, TeacherConfig
from distill.protocols import Architecture
from experiments.benchmarks.synthetic import make_batch, make_schema
from experiments.pipeline.build import build_model

SCHEMA = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"))
FEATURES = tuple(SCHEMA.sparse)
GEM: dict[str, Any] = {
    "dim": 8,
    "history_length": 0,
    "layers": 1,
    "wukong": {"fm_tokens": 2, "linear_tokens": 2, "rank": 2},
    "mlp": [6],
}
NEVER = {"item_id": [2, 5], "feature_1": [4], "feature_2": [0]}
"""Ids that no teacher here has seen."""


def make_teacher(seed: int = 0, **options: Any) -> Architecture:
    """A GEM of width 8 whose rows are as large as trained ones; unseen ones are so large that they would be noticed."""
    config = TeacherConfig(options=GEM | options)
    teacher = build_model("teacher", config, OptimizerConfig(), SCHEMA, seed, Path())
    generator = torch.Generator().manual_seed(seed)
    state = teacher.tables.export()
    for feature in FEATURES:
        weight, moment = state[f"{feature}.weight"], state[f"{feature}.momentum"]
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
        moment.copy_(torch.rand(moment.shape, generator=generator) * 1e-4)
        weight[NEVER[feature]], moment[NEVER[feature]] = 1e6, 0.0
    teacher.tables.load(state)
    return teacher


def write_snapshot(folder: Path, seed: int = 0, **options: Any) -> Path:
    """The snapshot of a teacher, the day in its name being its seed."""
    path = folder / f"day-{seed:04d}.safetensors"
    save_model(make_teacher(seed, **options), path, {"trained_through": seed})
    return path


def make_shared(
    architecture: str = "deepfm",
    seed: int = 0,
    features: list[str] | None = None,
    width: int = 4,
    **options: Any,
) -> tuple[Architecture, Sharing]:
    """A student beside its channel of all tables and a learned projection; `options` are the channel's."""
    options = {
        "dim": GEM["dim"],
        "tables": [] if options.get("copies") == "none" else list(FEATURES),
        **options,
    }
    projection = "none" if options.get("copies") in ("initial", "none") else "learned"
    channel = build_sharing(SharingConfig(**{"projection": projection, **options}), SCHEMA, seed)
    sizes = GEM | {"dim": width} if architecture == "gem" else {"dim": width, "mlp": [6]}
    config = StudentConfig(
        name="s", architecture=architecture, verticals=["surface_0"], options=sizes, features=features or []
    )
    optimizer = OptimizerConfig(table_learning_rate=0.1)
    student = build_model("student", config, optimizer, SCHEMA, seed, Path(), len(channel.fields))
    channel.attach(student)
    return student, channel


def batch_of(seed: int = 0) -> Batch:
    return make_batch(SCHEMA, [0] * 6, seed)


def copies(student: Architecture) -> dict[str, Tensor]:
    """The state of the student's shared tables."""
    return {name: tensor.clone() for name, tensor in student.inputs["sharing"].state_dict().items()}


def seen(feature: str) -> Tensor:
    """Which ids the teachers here have seen, bool [R]."""
    return ~torch.isin(torch.arange(SCHEMA.sparse[feature].size), torch.tensor(NEVER[feature]))


def train(
    student: Architecture, channel: Sharing, steps: int = 3, adam: torch.optim.Optimizer | None = None
) -> None:
    """Steps of Adam (a new one unless given), and of the tables' own optimisers in the backward pass."""
    adam = adam or torch.optim.Adam(student.parameters(), lr=0.01)
    for step in range(steps):
        batch = batch_of(step)
        adam.zero_grad()
        output = student(batch)
        (output.logits.square().mean() + channel.loss(output, batch, student)[0]).backward()
        adam.step()
