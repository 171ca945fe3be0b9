"""deepctr-torch: its models and their `fit`. Run by its own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DCN, DIN, DeepFM, basemodel
from torch.utils.data import DataLoader

from experiments.benchmarks.peers.harness import Clock, Task, TimedLoader, main
from experiments.benchmarks.peers.work import (
    ATTENTION,
    BATCH,
    CROSS_LAYERS,
    DIM,
    HISTORY_LENGTH,
    ITEM,
    MLP,
    Rows,
)

# The name that the library expects for the history of a field.
HISTORY_OF_ITEM = f"hist_{ITEM}"


def build(task: Task) -> Any:
    """The library's model, without the penalties on its weights that the others do not have."""
    columns: list[Any] = [SparseFeat(name, size, DIM) for name, size in task.description.sizes.items()]
    free: dict[str, Any] = {"dnn_hidden_units": MLP, "l2_reg_embedding": 0}
    if task.model == "deepfm":
        return DeepFM(columns, columns, l2_reg_linear=0, **free)
    if task.model == "dcn_v2":
        cross: dict[str, Any] = {"cross_num": CROSS_LAYERS, "cross_parameterization": "matrix"}
        return DCN([], columns, l2_reg_linear=0, l2_reg_cross=0, **cross, **free)
    item = SparseFeat(HISTORY_OF_ITEM, task.description.sizes[ITEM], DIM, embedding_name=ITEM)
    columns.append(VarLenSparseFeat(item, maxlen=HISTORY_LENGTH, length_name="history_length"))
    return DIN(columns, [ITEM], att_hidden_size=ATTENTION, att_activation="prelu", **free)


def inputs(task: Task, rows: Rows) -> dict[str, np.ndarray]:
    if task.model != "din":
        return dict(rows.fields)
    return {**rows.fields, HISTORY_OF_ITEM: rows.history, "history_length": rows.history_length}


def train(task: Task, clock: Clock) -> np.ndarray:
    """`fit` for one epoch; it makes its loader itself, so the clock is put around that one."""
    model = build(task)
    model.compile(torch.optim.Adam(model.parameters(), lr=task.learning_rate), "binary_crossentropy")
    own = basemodel.DataLoader
    basemodel.DataLoader = lambda **settings: TimedLoader(DataLoader(**settings), clock)
    model.fit(inputs(task, task.train), task.train.click, batch_size=BATCH, verbose=0, shuffle=False)
    basemodel.DataLoader = own
    return model.predict(inputs(task, task.evaluation), batch_size=BATCH).reshape(-1)


if __name__ == "__main__":
    main("deepctr-torch", train)
