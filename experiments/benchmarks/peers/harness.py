"""Runs one library on one model and writes what it took. Needs numpy, torch and scikit-learn only.

Time is processor time of the process: other processes do not count. Data and model are told apart by a clock
around the library's own loader: time inside the loader's `next` is data, all other time from the first `next`
until the last step is done is model. Before the clock starts a throw-away model takes a few steps, so that
imports and first allocations are nobody's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from experiments.benchmarks.peers.work import BATCH, MODELS, Description, Rows

WARM_UP_STEPS = 8


@dataclass(frozen=True)
class Task:
    """What to train.

    Attributes:
        model: deepfm, dcn_v2 or din.
        train, evaluation: the rows.
        description: what they are.
        learning_rate: of Adam.
        folder: for whatever the library wants to write.
        steps: stop after so many; None for one pass.
    """

    model: str
    train: Rows
    evaluation: Rows
    description: Description
    learning_rate: float
    folder: Path
    steps: int | None = None


@dataclass
class Clock:
    """Processor and wall time of a training pass, in the parts of it that are between `start` and `stop`.

    Attributes:
        data: processor time in loaders, s.
        total: processor time of everything, s.
        wall: wall time of everything, s.
    """

    data: float = 0.0
    total: float = 0.0
    wall: float = 0.0
    _begin: tuple[float, float] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Go, unless it goes already."""
        self._begin = self._begin or (time.process_time(), time.perf_counter())

    def stop(self) -> None:
        """Stop, unless it stands already."""
        if self._begin is not None:
            self.total += time.process_time() - self._begin[0]
            self.wall += time.perf_counter() - self._begin[1]
            self._begin = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What happens inside counts as data; starts the clock."""
        self.start()
        before = time.process_time()
        yield
        self.data += time.process_time() - before

    def loading(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time to get them counts as data. Starts the clock."""
        with self.reading():
            iterator = iter(batches)
        while True:
            with self.reading():
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch


class TimedLoader:
    """A library's loader with a clock around it, for one pass; the rest of the loader stays reachable."""

    def __init__(self, loader: Any, clock: Clock):
        self.loader, self.clock = loader, clock

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        yield from self.clock.loading(self.loader)
        self.clock.stop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


Train = Callable[[Task, Clock], np.ndarray]


def main(library: str, train: Train) -> None:
    """Command line of a library's runner.

    Args:
        library: name of its distribution.
        train: trains on the task's rows under the clock; returns a score of every row for evaluation.
    """
    parser = argparse.ArgumentParser(description=f"one pass of {library} over the exported rows")
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="folder of the exported rows")
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for whatever the library writes")
    parser.add_argument("--result", type=Path, required=True, help="JSON file to write")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, evaluation = (Rows.load(settings.rows / f"{name}.npz") for name in ("train", "evaluation"))
    common = (Description.load(settings.rows), settings.learning_rate, settings.folder)
    first = WARM_UP_STEPS * BATCH
    train(Task(settings.model, rows.head(first), evaluation.head(first), *common, WARM_UP_STEPS), Clock())
    clock = Clock()
    scores = train(Task(settings.model, rows, evaluation, *common), clock)
    result = {
        "version": metadata.version(library),
        "examples": len(rows),
        "seconds": clock.total,
        "wall_seconds": clock.wall,
        "data_seconds": clock.data,
        "model_seconds": clock.total - clock.data,
        "auc": roc_auc_score(evaluation.click, scores) if len(scores) else None,
    }
    settings.result.write_text(json.dumps(result) + "\n")
