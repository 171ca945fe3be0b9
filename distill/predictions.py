"""Predictions of one cell and seed: `predictions/<cell_id>/<seed>.parquet` of a run folder. Free of torch.

Columns: example_id, user_id, timestamp, day, domain (name), split (`train`, `tune`, `test`), and for every
task of the model `logit_<task>` and `label_<task>` (null = outcome unknown). Logits are stored, never
probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.cells import Cell, read_cells
from distill.errors import UserError
from distill.files import atomic_path

SPLITS = ("train", "tune", "test")
"""`Predictions.split` holds the index into these names."""

UNKNOWN = -1
"""Label in memory of an outcome that is not known; null on disk."""

_IDS = {"example_id": pa.int64(), "user_id": pa.int64(), "timestamp": pa.int64(), "day": pa.int32()}
_NAMES = pa.dictionary(pa.int32(), pa.string())
_LOGIT, _LABEL = "logit_", "label_"
_ROWS_PER_GROUP = 65_536
_NAMED = 5  # examples named in an error


class PredictionError(UserError):
    """Predictions that break their form: columns, types, NaN logits, labels, duplicate ids, names."""


@dataclass(frozen=True)
class Predictions:
    """Rows of one model; checked when made.

    Attributes:
        example_id, user_id: int64 [N]; example ids are unique.
        timestamp: int64 [N], ms.
        day: int32 [N], from 1.
        domain: int32 [N], index into `domains`.
        domains: names of the domains.
        split: int8 [N], index into `SPLITS`.
        logits: task -> float32 [N], finite.
        labels: task -> int8 [N], 0, 1 or `UNKNOWN`; the same tasks.

    Raises:
        PredictionError: rows that break any of this, named by their example ids.
    """

    example_id: NDArray[np.int64]
    user_id: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    day: NDArray[np.int32]
    domain: NDArray[np.int32]
    domains: tuple[str, ...]
    split: NDArray[np.int8]
    logits: Mapping[str, NDArray[np.float32]]
    labels: Mapping[str, NDArray[np.int8]]

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.example_id)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.logits)

    def take(self, rows: NDArray[Any]) -> Predictions:
        """The rows of a boolean mask [N] or of integer positions [M]."""
        arrays = {name: getattr(self, name)[rows] for name in (*_IDS, "domain", "split")}
        logits = {task: values[rows] for task, values in self.logits.items()}
        labels = {task: values[rows] for task, values in self.labels.items()}
        return dataclasses.replace(self, **arrays, logits=logits, labels=labels)

    def select(self, split: str, domains: Iterable[str]) -> Predictions:
        """The rows of one split and of some domains (names that no row has select none)."""
        codes = [index for index, name in enumerate(self.domains) if name in set(domains)]
        return self.take((self.split == SPLITS.index(split)) & np.isin(self.domain, codes))

    @staticmethod
    def concatenate(parts: Sequence[Predictions]) -> Predictions:
        """One set of predictions from several of the same tasks: one per day, or one per vertical."""
        if not parts or len({frozenset(part.tasks) for part in parts}) > 1:
            raise PredictionError(
                f"predictions to concatenate: got tasks {[p.tasks for p in parts]}, allowed: one set"
            )
        domains = tuple(dict.fromkeys(name for part in parts for name in part.domains))
        codes = [
            np.array([domains.index(n) for n in part.domains], dtype=np.int32)[part.domain] for part in parts
        ]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in (*_IDS, "split")}
        tasks = parts[0].tasks
        return Predictions(
            **arrays,
            domain=np.concatenate(codes),
            domains=domains,
            logits={task: np.concatenate([part.logits[task] for part in parts]) for task in tasks},
            labels={task: np.concatenate([part.labels[task] for part in parts]) for task in tasks},
        )


def prediction_path(run_folder: str | Path, cell: Cell, seed: int) -> Path:
    """Where the predictions of a cell and seed lie in a run folder."""
    return Path(run_folder) / "predictions" / cell.cell_id / f"{seed}.parquet"


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write the Parquet file, all at once or not at all.

    Args:
        path: the file (see `prediction_path`); its folder is made.
        predictions: at least one row.
    """
    if not len(predictions):
        raise PredictionError(f"{path}: got no rows, allowed: at least one")
    p = predictions
    columns: dict[str, pa.Array] = {name: pa.array(getattr(p, name), kind) for name, kind in _IDS.items()}
    columns["domain"] = _dictionary(p.domain, p.domains)
    columns["split"] = _dictionary(p.split, SPLITS)
    for task in p.tasks:
        columns[_LOGIT + task] = pa.array(p.logits[task], pa.float32())
        columns[_LABEL + task] = pa.array(p.labels[task], pa.int8(), mask=p.labels[task] == UNKNOWN)
    with atomic_path(path) as temporary:
        table = pa.table(columns)
        pq.write_table(table, temporary, row_group_size=_ROWS_PER_GROUP, write_page_checksum=True)


def read_predictions(path: str | Path, splits: Iterable[str] = SPLITS) -> Predictions:
    """Read the rows of some splits; others (the test's, unless they are asked for) are never looked at.

    Args:
        path: what `write_predictions` wrote.
        splits: names out of `SPLITS`.

    Raises:
        PredictionError: no such file, not Parquet, missing or unknown columns, types, nulls, or rows that
            break the form of `Predictions`; a split that is none.
    """
    path, splits = Path(path), list(splits)
    if not splits or set(splits) - set(SPLITS):
        raise PredictionError(f"splits: got {splits}, allowed: some of {', '.join(SPLITS)}")
    if not path.is_file():
        raise PredictionError(f"predictions: no file {path}. Has this cell and seed been trained?")
    try:
        schema = pq.read_schema(path)
        tasks = _tasks(path, schema)
        wanted = [("split", "in", splits)]
        table = pq.read_table(path, schema=schema, filters=wanted, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise PredictionError(
            f"{path}: not a readable Parquet file: {error}. Remove it; `distill run` trains again what is missing"
        ) from error
    try:
        return _from_table(table, tasks)
    except PredictionError as error:
        raise PredictionError(f"{path}: {error}") from error


@dataclass(frozen=True)
class CellPredictions:
    """A cell whose predictions lie in a run folder, read one seed at a time.

    Attributes:
        cell: the cell.
        run_folder: the folder that holds `predictions/`.
    """

    cell: Cell
    run_folder: Path

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with a file, ascending; PredictionError when there is none."""
        folder = prediction_path(self.run_folder, self.cell, 0).parent
        seeds = sorted(int(path.stem) for path in folder.glob("*.parquet") if path.stem.isdecimal())
        if not seeds:
            raise PredictionError(
                f"predictions of cell {self.cell}: no <seed>.parquet in {folder}. Has it been trained?"
            )
        return tuple(seeds)

    def read(self, seed: int, splits: Iterable[str]) -> Predictions:
        """`read_predictions` of one seed.

        Raises:
            PredictionError: also for a scored split without rows, and for rows outside the cell's vertical.
        """
        path, splits = prediction_path(self.run_folder, self.cell, seed), list(splits)
        predictions = read_predictions(path, splits)
        present = {SPLITS[code] for code in np.unique(predictions.split)}
        empty = [split for split in splits if split not in present and split != "train"]
        if empty:
            raise PredictionError(
                f"{path}: split: got no rows of {', '.join(empty)}, allowed: rows of every scored split"
            )
        domains = {predictions.domains[code] for code in np.unique(predictions.domain)}
        if self.cell.domains is not None and domains - set(self.cell.domains):
            raise PredictionError(
                f"{path}: domain: got {', '.join(sorted(domains))}, allowed: '{self.cell.vertical}', "
                "the vertical of its cell"
            )
        return predictions


def open_predictions(run_folder: str | Path) -> list[CellPredictions]:
    """Every cell of a run folder's `cells.csv`; nothing else is read yet."""
    return [CellPredictions(cell, Path(run_folder)) for cell in read_cells(Path(run_folder) / "cells.csv")]


def _dictionary(codes: NDArray[Any], names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(list(names), pa.string()))


def _tasks(path: Path, schema: pa.Schema) -> list[str]:
    tasks = [name.removeprefix(_LOGIT) for name in schema.names if name.startswith(_LOGIT)]
    wanted = {**_IDS, "domain": _NAMES, "split": _NAMES}
    for task in tasks:
        wanted |= {_LOGIT + task: pa.float32(), _LABEL + task: pa.int8()}
    missing, unknown = set(wanted) - set(schema.names), set(schema.names) - set(wanted)
    if missing or unknown or not tasks:
        raise PredictionError(
            f"{path}: columns: missing {sorted(missing)}, unknown {sorted(unknown)}, "
            f"allowed: {', '.join(wanted)} with logit_<task> and label_<task> for at least one task"
        )
    for name, kind in wanted.items():
        if schema.field(name).type != kind:
            raise PredictionError(
                f"{path}: column {name}: got type {schema.field(name).type}, allowed: {kind}"
            )
    return tasks


def _from_table(table: pa.Table, tasks: Sequence[str]) -> Predictions:
    for name in table.column_names:
        if table[name].null_count and not name.startswith(_LABEL):
            raise PredictionError(f"column {name}: got {table[name].null_count} nulls, allowed: none")
    # A file has one dictionary per row group; unified, every chunk carries the same names.
    domain, split = (table[name].unify_dictionaries().combine_chunks() for name in ("domain", "split"))
    split_names = split.dictionary.to_pylist()
    unknown = set(split_names) - set(SPLITS)
    if unknown:
        raise PredictionError(f"column split: got {sorted(unknown)}, allowed: {', '.join(SPLITS)}")
    split_codes = np.array([SPLITS.index(name) for name in split_names], dtype=np.int8)
    return Predictions(
        **{name: table[name].to_numpy() for name in _IDS},
        domain=domain.indices.to_numpy(),
        domains=tuple(domain.dictionary.to_pylist()),
        split=split_codes[split.indices.to_numpy()],
        logits={task: table[_LOGIT + task].to_numpy() for task in tasks},
        labels={task: table[_LABEL + task].fill_null(UNKNOWN).to_numpy() for task in tasks},
    )


def _check(p: Predictions) -> None:
    _check_arrays(p)
    _refuse(p, (p.domain < 0) | (p.domain >= len(p.domains)), "domain", p.domain, f"[0, {len(p.domains)})")
    _refuse(p, (p.split < 0) | (p.split >= len(SPLITS)), "split", p.split, f"[0, {len(SPLITS)}) for {SPLITS}")
    for task, logit in p.logits.items():
        label = p.labels[task]
        _refuse(p, ~np.isfinite(logit), _LOGIT + task, logit, "finite numbers. Did the model diverge?")
        allowed = f"0, 1 and unknown ({UNKNOWN}, null on disk)"
        _refuse(p, (label < UNKNOWN) | (label > 1), _LABEL + task, label, allowed)
    ids = np.sort(p.example_id)
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise PredictionError(
            f"example_id: got {twice[:_NAMED].tolist()} more than once ({len(twice)} rows too many)"
        )


def _check_arrays(p: Predictions) -> None:
    if not p.logits or set(p.logits) != set(p.labels):
        raise PredictionError(
            f"tasks: got logits of {list(p.logits)}, labels of {list(p.labels)}, allowed: the same"
        )
    arrays = {name: getattr(p, name) for name in (*_IDS, "domain", "split")}
    arrays |= {_LOGIT + task: values for task, values in p.logits.items()}
    arrays |= {_LABEL + task: values for task, values in p.labels.items()}
    for name, values in arrays.items():
        if values.shape != p.example_id.shape or values.ndim != 1:
            raise PredictionError(
                f"{name}: got shape {values.shape}, allowed: {p.example_id.shape} of example_id"
            )
        if values.dtype.kind != ("f" if name.startswith(_LOGIT) else "i"):
            raise PredictionError(
                f"{name}: got {values.dtype}, allowed: floats for logits, else signed integers"
            )


def _refuse(p: Predictions, bad: NDArray[np.bool_], name: str, values: NDArray[Any], allowed: str) -> None:
    if bad.any():
        rows = np.flatnonzero(bad)[:_NAMED]
        raise PredictionError(
            f"{name}: got {values[rows].tolist()} in example_id {p.example_id[rows].tolist()} "
            f"({int(bad.sum())} rows), allowed: {allowed}"
        )
