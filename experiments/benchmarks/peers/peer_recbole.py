"""RecBole: its models, data set, loader and trainer's epoch. Run by its own interpreter.

Its DIN reads items only: user and context fields never reach the network, and the widths of its attention are
those of its MLP. So it cannot do the same work; it is left out.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer

from experiments.benchmarks.peers.harness import Clock, Task, TimedLoader, main
from experiments.benchmarks.peers.work import BATCH, CROSS_LAYERS, DIM, FIELDS, ITEM, MLP, TASK

NAMES = {"deepfm": "DeepFM", "dcn_v2": "DCNV2"}
FILES = ("train", "evaluation", "rest")


def write(task: Task, folder: Path) -> None:
    """The rows as the library's atomic files, of which it wants three."""
    parts = (task.train, task.evaluation, task.evaluation.head(1))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(FILES, parts, strict=True):
        table = pd.DataFrame(
            {f"{field}:token": ids for field, ids in rows.fields.items()} | {f"{TASK}:float": rows.click}
        )
        table.to_csv(folder / f"kuairand.{name}.inter", sep="\t", index=False)


def configure(task: Task) -> Config:
    """The library's defaults, but for what is the same for all and for the penalties and dropout it has alone."""
    settings: dict[str, Any] = {
        "data_path": str(task.folder),
        "checkpoint_dir": str(task.folder),
        "benchmark_filename": list(FILES),
        "load_col": {"inter": [*FIELDS, TASK]},
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": ITEM,
        "LABEL_FIELD": TASK,
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [8, 1, 1]}, "group_by": "none", "order": "RO", "mode": "labeled"},
        "metrics": ["AUC"],
        "valid_metric": "AUC",
        "train_batch_size": BATCH,
        "eval_batch_size": BATCH,
        "shuffle": False,
        "use_gpu": False,
        "show_progress": False,
        "learning_rate": task.learning_rate,
        "embedding_size": DIM,
        "mlp_hidden_size": list(MLP),
        "dropout_prob": 0.0,
        "reg_weight": 0.0,
        "structure": "parallel",
        "cross_layer_num": CROSS_LAYERS,
    }
    return Config(model=NAMES[task.model], dataset="kuairand", config_dict=settings)


def train(task: Task, clock: Clock) -> np.ndarray:
    """One epoch of the library's trainer."""
    write(task, task.folder / "kuairand")
    config = configure(task)
    logging.disable()
    train_data, evaluation, _ = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer._train_epoch(TimedLoader(train_data, clock), 0)
    model.eval()
    with torch.no_grad():
        return np.concatenate([model.predict(interaction).numpy() for interaction, *_ in evaluation])


if __name__ == "__main__":
    main("recbole", train)
