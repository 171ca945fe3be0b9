"""Tiny students, and their numbers as numpy arrays in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill.batch import Batch
from distill.schema import FeatureSchema
from experiments.benchmarks.synthetic import make_schema
from students import dcn_v2, deepfm, din, dlrm
from students.base import Student
from students.config import DCNv2Config, DeepFMConfig, DINConfig, DLRMConfig

Array = NDArray[np.float64]
KINDS: dict[str, tuple[Any, Any]] = {
    "dlrm": (dlrm.build, DLRMConfig),
    "deepfm": (deepfm.build, DeepFMConfig),
    "dcn_v2": (dcn_v2.build, DCNv2Config),
    "din": (din.build, DINConfig),
}
POOLED = ("dlrm", "deepfm", "dcn_v2")


def schema_of(dense: int = 2, tasks: tuple[str, ...] = ("click", "conversion")) -> FeatureSchema:
    """Three sparse features, two of them before and after the item when `features_of` orders them."""
    return make_schema([7, 5, 3], dense=dense, tasks=tasks)


def features_of(schema: FeatureSchema) -> tuple[str, ...]:
    """The features with the item in the middle, so that no test passes only because it comes first."""
    item, first, last = schema.sparse
    return first, item, last


def make_student(kind: str, schema: FeatureSchema, seed: int = 0, **options: Any) -> Student:
    """A student with embeddings of width 4 and an MLP 6-5, unless the options say otherwise."""
    build, config = KINDS[kind]
    settings = {"dim": 4, "mlp": [6, 5], **options}
    return build(
        config(**settings),
        schema=schema,
        tasks=schema.task_names,
        features=features_of(schema),
        dense_features=schema.dense,
        seed=seed,
        table_learning_rate=0.1,
    )


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def enlarge(student: Student, factor: float = 50.0) -> None:
    """Make the rows of the tables large enough for products of them to count."""
    state = student.tables.export()
    student.tables.load({name: t * factor if name.endswith("weight") else t for name, t in state.items()})


EMBEDDING = slice(0, 4)


def rows(student: Student, batch: Batch, columns: slice = EMBEDDING) -> Array:
    """Columns of the features' rows [B, F, columns], looked up by hand; every example has one id a
    feature."""
    state = student.tables.export()
    ids = batch.sparse.to_dict()
    looked_up = [array(state[f"{f}.weight"])[ids[f].values().numpy()] for f in student.features]
    return np.stack(looked_up, axis=1)[:, :, columns]


def event_rows(student: Student, batch: Batch, columns: slice = EMBEDDING) -> list[Array]:
    """For each example the columns [length, columns] of the rows of its events' items."""
    assert batch.history is not None
    table = array(student.tables.export()[f"{student.schema.item_feature}.weight"])[:, columns]
    offsets = batch.history.offsets.tolist()
    items = batch.history.item.numpy()
    return [table[items[start:end]] for start, end in zip(offsets, offsets[1:], strict=False)]


def linear(layer: Any, x: Array) -> Array:
    bias = 0 if layer.bias is None else array(layer.bias)
    return x @ array(layer.weight).T + bias


def relu_layers(layers: Any, x: Array) -> Array:
    """Every linear layer of an MLP, each under a ReLU."""
    for layer in list(layers)[::2]:
        x = np.maximum(linear(layer, x), 0)
    return x


def prelu(activation: Any, x: Array) -> Array:
    return np.where(x > 0, x, array(activation.slope) * x)
