"""torch-rechub: its models, its CTRTrainer, its dataset in torch's DataLoader. Run by its own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIN, DCNv2, DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import TorchDataset

from experiments.benchmarks.peers.harness import Clock, Task, TimedLoader, main
from experiments.benchmarks.peers.work import ATTENTION, BATCH, CROSS_LAYERS, DIM, HISTORY, ITEM, MLP, Rows


def build(task: Task) -> torch.nn.Module:
    """The library's model. Its MLPs always have batch normalisation, and DIN's always Dice."""
    sizes = task.description.sizes
    features = [SparseFeature(name, size, DIM) for name, size in sizes.items()]
    if task.model == "deepfm":
        return DeepFM(features, features, {"dims": list(MLP)})
    if task.model == "dcn_v2":
        return DCNv2(features, CROSS_LAYERS, {"dims": list(MLP)}, use_low_rank_mixture=False)
    history = SequenceFeature(HISTORY, sizes[ITEM], DIM, "concat", shared_with=ITEM, padding_idx=0)
    return DIN(
        [feature for feature in features if feature.name != ITEM],
        [history],
        [feature for feature in features if feature.name == ITEM],
        {"dims": list(MLP)},
        {"dims": list(ATTENTION), "activation": "prelu"},
    )


def loader(task: Task, rows: Rows) -> DataLoader:
    columns = rows.fields | ({HISTORY: rows.history} if task.model == "din" else {})
    return DataLoader(TorchDataset(columns, rows.click), batch_size=BATCH)


def train(task: Task, clock: Clock) -> np.ndarray:
    """One epoch of the library's trainer."""
    optimizer: dict[str, Any] = {"lr": task.learning_rate}
    trainer = CTRTrainer(build(task), optimizer_params=optimizer, model_path=str(task.folder))
    trainer.train_one_epoch(TimedLoader(loader(task, task.train), clock))
    return np.array(trainer.predict(trainer.model, loader(task, task.evaluation)))


if __name__ == "__main__":
    main("torch-rechub", train)
