"""Whom and what the data set has shown before: rows of old and new users and items. Free of torch.

A user (item) is old on a day when an earlier day of the data set has a row of it, on any surface. Events from before
day 1 do not count.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.dataset import DataSet
from distill.errors import DataError
from distill.parquet import ParquetPart
from experiments.recorded import RecordedRun

GROUPS = ("old user, old item", "old user, new item", "new user, old item", "new user, new item")


@dataclass(frozen=True)
class Familiarity:
    """The group of every row of some days.

    Attributes:
        example_id: int64 [N], ascending.
        group: int8 [N], index into `GROUPS`.
    """

    example_id: NDArray[np.int64]
    group: NDArray[np.int8]

    def of(self, example_id: NDArray[np.int64]) -> NDArray[np.int8]:
        """Groups of rows.

        Args:
            example_id: int64 [M].

        Raises:
            DataError: a row that the data set does not have on these days.
        """
        place = np.minimum(np.searchsorted(self.example_id, example_id), len(self.example_id) - 1)
        foreign = example_id[self.example_id[place] != example_id]
        if len(foreign):
            raise DataError(
                f"example_id: got {foreign[0]} ({len(foreign)} rows), allowed: rows of the prepared data set. "
                "It has been made anew from other data: run the experiment again."
            )
        return self.group[place]


def familiarity(data: DataSet, days: Iterable[int]) -> Familiarity:
    """Which rows of some days are of users and items that earlier days have shown.

    Args:
        data: the prepared data set, of one item a row; its days up to the last of these are read, ids alone.
        days: at least one day number.

    Raises:
        DataError: days or files missing.
    """
    wanted, item = sorted(days), data.schema.item_feature
    assert not data.schema.sparse[item].multi, f"rows hold several {item}"
    day, example, user, items = _columns(data, range(1, wanted[-1] + 1), ("example_id", "user_id", item))
    group = 2 * _is_new(user, day) + _is_new(items, day)
    rows = np.flatnonzero(np.isin(day, wanted))
    rows = rows[np.argsort(example[rows])]
    return Familiarity(example[rows], group[rows].astype(np.int8))


def data_folder(run: RecordedRun) -> Path | None:
    """Where `distill.dataset.prepare` keeps the data that all trainings of a run have read; None without trainings."""
    prints = {report["data_fingerprint"] for report in run.trainings.values()}
    data = run.config.get("data")
    return (
        Path(data["cache"]) / f"{data['source']}-{prints.pop()[:12]}" if data and len(prints) == 1 else None
    )


def familiarity_of(run: RecordedRun) -> Familiarity | str:
    """That of the days that a run is judged by; or, as a sentence, why nobody can say.

    Args:
        run: a scored run.

    Raises:
        DataError: the data set that it was trained on is damaged.
    """
    folder = data_folder(run)
    if folder is None or not folder.is_dir():
        return (
            "The prepared data set of this run, which says who and what is new, is not where it was. "
            "Call this in the folder that the run was started from."
        )
    data = DataSet.open(folder)
    if data.schema.sparse[data.schema.item_feature].multi:
        return "Rows of this data set hold several items each, so none is old or new."
    return familiarity(data, run.judged_days)


def _columns(data: DataSet, days: Iterable[int], names: tuple[str, ...]) -> list[NDArray[np.int64]]:
    """The day and these columns of all rows of some days, int64 [N] each."""
    columns: list[list[NDArray[np.int64]]] = [[] for _ in range(len(names) + 1)]
    for day in days:
        for path in data.parts(day):
            table = ParquetPart(path).read(names)
            columns[0].append(np.full(table.num_rows, day, np.int64))
            for column, name in zip(columns[1:], names, strict=True):
                column.append(table[name].to_numpy())
    return [np.concatenate(column) for column in columns]


def _is_new(ids: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows [N] whose id has no row on an earlier day."""
    names, place = np.unique(ids, return_inverse=True)
    first = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(first, place, day)
    return first[place] == day
