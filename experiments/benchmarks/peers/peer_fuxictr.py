"""FuxiCTR: its models, its loader for npz files, its training epoch. Run by its own interpreter.

The models stand in the repository's `model_zoo`, of which the package on PyPI holds only a part;
`environments.py` puts that folder beside the environment.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader

from experiments.benchmarks.peers.harness import Clock, Task, TimedLoader, main
from experiments.benchmarks.peers.work import (
    ATTENTION,
    BATCH,
    CROSS_LAYERS,
    DIM,
    HISTORY,
    HISTORY_LENGTH,
    ITEM,
    MLP,
    TASK,
    Rows,
)

ZOO = Path(sys.prefix) / "model_zoo"
FILES = {
    "deepfm": ("DeepFM", "DeepFM/DeepFM_torch/src/DeepFM.py"),
    "dcn_v2": ("DCNv2", "DCNv2/src/DCNv2.py"),
    "din": ("DIN", "DIN/src/DIN.py"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "deepfm": {"hidden_units": list(MLP)},
    "dcn_v2": {"parallel_dnn_hidden_units": list(MLP), "num_cross_layers": CROSS_LAYERS},
    "din": {
        "dnn_hidden_units": list(MLP),
        "attention_hidden_units": list(ATTENTION),
        "attention_hidden_activations": "PReLU",
        "din_target_field": [ITEM],
        "din_sequence_field": [HISTORY],
    },
}


def model_class(model: str) -> Any:
    """The class from the model zoo's file."""
    name, path = FILES[model]
    spec = importlib.util.spec_from_file_location(name, ZOO / path)
    assert spec is not None and spec.loader is not None, f"no file {ZOO / path}"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def feature_map(task: Task) -> FeatureMap:
    features: OrderedDict[str, dict[str, Any]] = OrderedDict(
        (name, {"source": "", "type": "categorical", "vocab_size": size})
        for name, size in task.description.sizes.items()
    )
    if task.model == "din":
        shared = {"share_embedding": ITEM, "padding_idx": 0, "max_len": HISTORY_LENGTH}
        features[ITEM]["padding_idx"] = 0
        features[HISTORY] = {"source": "", "type": "sequence", "vocab_size": features[ITEM]["vocab_size"]}
        features[HISTORY].update(shared, feature_encoder=None)
    described = FeatureMap("kuairand", str(task.folder))
    described.features, described.labels = features, [TASK]
    described.num_fields, described.default_emb_dim = len(features), DIM
    described.set_column_index()
    return described


def loader(task: Task, rows: Rows, described: FeatureMap, name: str) -> Any:
    """The library's loader, which reads a file."""
    path = task.folder / f"{name}.npz"
    columns: dict[str, Any] = rows.fields | {TASK: rows.click}
    np.savez(path, **(columns | {HISTORY: rows.history} if task.model == "din" else columns))
    settings = {"batch_size": BATCH, "shuffle": False, "data_format": "npz", "num_workers": 0}
    return RankDataLoader(described, stage="test", test_data=str(path), **settings)


def train(task: Task, clock: Clock) -> np.ndarray:
    """`fit` for one epoch. It wants to validate and to save after the last step; the clock stops before that."""
    logging.disable()
    described = feature_map(task)
    model = model_class(task.model)(
        described,
        learning_rate=task.learning_rate,
        embedding_dim=DIM,
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        model_root=str(task.folder),
        verbose=0,
        **OPTIONS[task.model],
    )
    Path(model.model_dir).mkdir(parents=True, exist_ok=True)

    def after_last_step() -> None:
        clock.stop()
        model.save_weights(model.checkpoint)

    model.eval_step = after_last_step
    model.fit(TimedLoader(loader(task, task.train, described, "train"), clock), epochs=1)
    return model.predict(loader(task, task.evaluation, described, "evaluation"))


if __name__ == "__main__":
    main("fuxictr", train)
