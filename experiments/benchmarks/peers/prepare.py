"""Writes the rows that every library trains on: the same fields of the same days in the same order.

    python -m experiments.benchmarks.peers.prepare --data PREPARED --folder ROWS

Days 1 to 9 are trained on, 10 and 11 scored. Later days are the test, which no benchmark reads.

Shape letters: R rows, L longest history.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.batch import Batch, Events
from distill.dataset import DataSet
from distill.errors import UserError
from distill.stream import DayStream
from experiments.benchmarks.peers.work import (
    EVALUATION_DAYS,
    FIELDS,
    HISTORY_LENGTH,
    TASK,
    TRAIN_DAYS,
    Description,
    Rows,
)


def export(data: DataSet, folder: Path, train_days: Sequence[int], evaluation_days: Sequence[int]) -> None:
    """Write `train.npz`, `evaluation.npz` and `description.json`.

    Args:
        data: prepared KuaiRand.
        folder: where to write; made if need be.
        train_days: days of `train.npz`.
        evaluation_days: days of `evaluation.npz`.

    Raises:
        UserError: a day of the test, or a data set without the fields.
    """
    days = [*train_days, *evaluation_days]
    if max(days) > max(EVALUATION_DAYS):
        raise UserError(
            f"days: got {max(days)}, allowed: up to {max(EVALUATION_DAYS)}; later days are the test"
        )
    missing = [name for name in FIELDS if name not in data.schema.sparse]
    if missing:
        raise UserError(
            f"{data.folder}: fields {', '.join(missing)} are missing. Give prepared KuaiRand data"
        )
    folder.mkdir(parents=True, exist_ok=True)
    read_rows(data, train_days).save(folder / "train.npz")
    read_rows(data, evaluation_days).save(folder / "evaluation.npz")
    sizes = {name: data.schema.sparse[name].size + 1 for name in FIELDS}
    Description(
        str(data.folder.resolve()), data.fingerprint, sizes, list(train_days), list(evaluation_days)
    ).save(folder)


def read_rows(data: DataSet, days: Sequence[int]) -> Rows:
    """The rows of some days with every id moved up by one, since the libraries pad with 0."""
    batches = [
        next(iter(DayStream(data, day, data.rows_per_day[day], FIELDS, history_length=HISTORY_LENGTH)))
        for day in days
    ]
    fields = {name: np.concatenate([_ids(batch, name) for batch in batches]) + 1 for name in FIELDS}
    histories = [batch.history for batch in batches if batch.history is not None]
    place = data.schema.task_names.index(TASK)
    assert all(bool(batch.label_mask[:, place].all()) for batch in batches), f"{TASK} is not known at once"
    return Rows(
        fields=fields,
        history=np.concatenate([pad(history) for history in histories]),
        history_length=np.concatenate([history.offsets.diff().numpy() for history in histories]),
        click=np.concatenate([batch.labels[:, place].numpy() for batch in batches]),
    )


def pad(history: Events) -> np.ndarray:
    """Items of jagged events as int64 [R, L]: id + 1, oldest first, then 0."""
    offsets, items = history.offsets.numpy(), history.item.numpy()
    lengths = np.diff(offsets)
    padded = np.zeros((len(lengths), HISTORY_LENGTH), np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    padded[row, np.arange(len(items)) - offsets[row]] = items + 1
    return padded


def _ids(batch: Batch, name: str) -> np.ndarray:
    return batch.sparse[name].values().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a prepared KuaiRand data set")
    parser.add_argument("--folder", type=Path, required=True, help="where to write")
    parser.add_argument("--days", type=int, default=len(TRAIN_DAYS), help="train on days 1 to this one")
    settings = parser.parse_args()
    export(DataSet.open(settings.data), settings.folder, TRAIN_DAYS[: settings.days], EVALUATION_DAYS)


if __name__ == "__main__":
    main()
