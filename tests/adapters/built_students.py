"""Students with channels that give them fields, composed as experiments compose them, and their optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import experiments.catalog  # noqa: F401  fills the registries
from distill.batch import Batch
from distill.config import OptimizerConfig, StudentConfig
from distill.losses import label_loss
from distill.module import DistillModule
from distill.protocols import Channel
from experiments.benchmarks.synthetic import make_schema
from experiments.pipeline.build import build_student
from students.base import Student
from tests.distill.tiny_training import Memory

KINDS = ("deepfm", "dcn_v2", "dlrm", "din")
DIM = 8
SCHEMA = make_schema([7, 5, 3], dense=2, tasks=("click", "conversion"))
ITEM = 1
"""Place of the item among the features of `built`."""


def built(
    kind: str, channels: Mapping[str, Mapping[str, Any]], seed: int = 0, **options: Any
) -> tuple[Student, dict[str, Channel]]:
    """A small student of width DIM, the item in the middle of its features, and its channels."""
    settings = {"dim": DIM, "mlp": [6, 5], **options}
    item, first, last = SCHEMA.sparse
    config = StudentConfig(name="s", architecture=kind, options=settings, features=[first, item, last])
    student, made = build_student(config, channels, OptimizerConfig(), SCHEMA, seed, Path())
    assert isinstance(student, Student)
    return student, made


def items(student: Student, batch: Batch) -> Tensor:
    """Embeddings [B, DIM] of the examples' items, looked up by hand."""
    table = student.tables.export()[f"{SCHEMA.item_feature}.weight"]
    return table[batch.sparse[SCHEMA.item_feature].values(), :DIM]


def given(student: Student, batch: Batch) -> Tensor:
    """The fields [B, n, DIM] that channels gave, as the trunk reads them."""
    return student(batch).taps["embedding"].unflatten(1, (-1, DIM))[:, -student.extra_fields :]


def optimized(student: Student, channels: Mapping[str, Channel]) -> list[nn.Parameter]:
    """What the one dense optimiser of a training holds, in order."""
    optimizer = DistillModule(student, channels, OptimizerConfig(), Memory()).configure_optimizers()
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def train(student: Student, channels: Mapping[str, Channel], batches: list[Batch]) -> dict[str, Tensor]:
    """A step a batch, by the optimiser of a training; the student's tables and parameters, copied."""
    optimizer = torch.optim.Adam(optimized(student, channels), lr=0.01)
    for batch in batches:
        optimizer.zero_grad()
        output = student(batch)
        loss = label_loss(output.logits, batch.labels, batch.label_mask)
        for channel in channels.values():
            loss = loss + channel.loss(output, batch, student)[0]
        loss.backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}
