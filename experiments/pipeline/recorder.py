"""Collects what a model says in validation: logits for a predictions file, representations for the teacher log."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from adapters.autoencoder import Autoencoder
from distill.batch import Batch
from distill.dataset import DataSet
from distill.distributed import process_number, processes, rows_of_all
from distill.predictions import SPLITS, Predictions
from distill.protocols import Output
from experiments.pipeline.experiment import Experiment

_IDS = ("example_id", "user_id", "timestamp", "domain")


class PredictionRecorder:
    """Keeps ids and logits of every batch it is given, in order."""

    def __init__(self) -> None:
        self._columns: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, batch: Batch, output: Output) -> None:
        """Take the logits [B, k] of one batch."""
        for name in _IDS:
            self._columns[name].append(getattr(batch, name).cpu().numpy())
        self._columns["day"].append(np.full(len(batch), batch.day, np.int32))
        self._columns["logits"].append(output.logits.float().cpu().numpy())

    def column(self, name: str) -> np.ndarray:
        """One of the ids, `day`, `logits` [N, k], or what a subclass keeps."""
        if len(self._columns[name]) > 1:
            self._columns[name] = [np.concatenate(self._columns[name])]
        (whole,) = self._columns[name]
        return whole

    def state_dict(self) -> dict[str, Any]:
        """What was recorded so far, by column, each day in the order of its stream.

        Of several processes each must call it; the first one is given the rows of all.
        """
        rows = {name: self.column(name) for name in self._columns}
        if not rows or processes() == 1:
            return rows
        rows = rows_of_all(rows)
        order = np.lexsort((rows["example_id"], rows["timestamp"], rows["day"]))
        return {name: column[order] for name, column in rows.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; each of several processes takes its share of the rows."""
        shares = {
            name: np.array_split(column, processes())[process_number()] for name, column in state_dict.items()
        }
        self._hold(shares)

    def take_from_all(self) -> None:
        """Have the first of several processes hold the rows of all, each day in the order of its stream."""
        self._hold(self.state_dict())

    def _hold(self, rows: dict[str, np.ndarray]) -> None:
        self._columns.clear()
        self._columns.update({name: [column] for name, column in rows.items()})

    def predictions(self, experiment: Experiment, tasks: tuple[str, ...]) -> Predictions:
        """Everything recorded, with final labels read from the data set.

        Args:
            experiment: for its data and its splits.
            tasks: names of the logits' columns.
        """
        day, example_id, logits = self.column("day"), self.column("example_id"), self.column("logits")
        labels = {task: np.empty(len(day), np.int8) for task in tasks}
        for number in np.unique(day):
            rows = day == number
            final = final_labels(experiment.data, int(number), example_id[rows])
            for task in tasks:
                labels[task][rows] = final[:, experiment.data.schema.task_names.index(task)]
        split = np.array(
            [SPLITS.index(experiment.schedule.split(d)) for d in range(int(day.max()) + 1)], np.int8
        )
        return Predictions(
            example_id=example_id,
            user_id=self.column("user_id"),
            timestamp=self.column("timestamp"),
            day=day,
            domain=self.column("domain").astype(np.int32),
            domains=experiment.data.schema.domains,
            split=split[day],
            logits={task: logits[:, place] for place, task in enumerate(tasks)},
            labels=labels,
        )


class LogRecorder(PredictionRecorder):
    """Keeps the teacher's representation of every example as well, column `representation` [N, D].

    Args:
        autoencoder: of the same moment as the teacher; None to keep none.
    """

    def __init__(self, autoencoder: Autoencoder | None) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def add(self, batch: Batch, output: Output) -> None:
        """Take the logits and the representations of one batch."""
        super().add(batch, output)
        if self.autoencoder is not None:
            self._columns["representation"].append(self.autoencoder.encode(output).cpu().numpy())

    @property
    def representation(self) -> np.ndarray | None:
        """float32 [N, D]; None without an autoencoder."""
        return None if self.autoencoder is None else self.column("representation")


def final_labels(data: DataSet, day: int, example_id: np.ndarray) -> np.ndarray:
    """Outcomes of a day's examples, for scores.

    Args:
        data: the data set.
        day: the examples' day.
        example_id: int64 [N], ids of that day.

    Returns:
        int8 [N, K], -1 where unknown.
    """
    outcomes = data.outcomes(day)
    order = np.argsort(outcomes.example_id)
    place = order[np.searchsorted(outcomes.example_id, example_id, sorter=order)]
    assert (outcomes.example_id[place] == example_id).all(), (
        f"day {day} was recorded with examples it does not hold"
    )
    return outcomes.labels[place]
