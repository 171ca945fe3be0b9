"""A cell: one trained model of one experiment in one condition, and its row in `cells.csv`. Free of torch."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError, nearest
from distill.files import atomic_path

ALL = "all"
"""Vertical of a teacher: one model of every domain."""

JOIN = "+"
"""Between the domains in the vertical of a domain teacher."""

POOLED = "pooled"
"""Vertical of rows that pool all verticals of the schema."""

NONE = "none"
"""Channel of a teacher, and of a student to which nothing is carried."""

DOMAIN_TEACHER = "domain_teacher"
"""Role of a teacher of some surfaces, between the teacher and students."""

SCHEDULES = ("frozen", "progressive")
INPUTS = ("thin", "rich")
ROUTES = ("direct", "hierarchical")
_ID_LENGTH = 12


class CellError(UserError):
    """A cell or a `cells.csv` that breaks its form."""


@dataclass(frozen=True, order=True)
class Cell:
    """What identifies a set of predictions, its seed apart (PROTOCOL.md, "Names in files").

    Attributes:
        experiment: name of the experiment.
        model: name of the model.
        role: `teacher`, `student`, or another role of the experiment (a domain teacher).
        vertical: a domain's name; `all` for a teacher; those of a domain teacher of several, joined by `+`.
        schedule: `frozen` or `progressive`.
        inputs: `thin` (no history of its own) or `rich`.
        route: `direct` or `hierarchical`.
        lag: days between the snapshot that logs a day and the day before that day; 0 or more.
        channel: slug of what is transferred, `none` for nothing and for teachers.
    """

    experiment: str
    model: str
    role: str
    vertical: str
    schedule: str
    inputs: str
    route: str
    lag: int
    channel: str

    def __post_init__(self) -> None:
        for name, allowed in (("schedule", SCHEDULES), ("inputs", INPUTS), ("route", ROUTES)):
            got = getattr(self, name)
            if got not in allowed:
                raise CellError(
                    f"cell: {name}: got '{got}', allowed: {', '.join(allowed)}. {nearest(got, allowed)}"
                )
        for name in ("experiment", "model", "role", "vertical", "channel"):
            got = getattr(self, name)
            if not isinstance(got, str) or not got:
                raise CellError(f"cell: {name}: got {got!r}, allowed: a name that is not empty")
        if not isinstance(self.lag, int) or isinstance(self.lag, bool) or self.lag < 0:
            raise CellError(f"cell: lag: got {self.lag!r}, allowed: a whole number of days >= 0")

    @property
    def cell_id(self) -> str:
        """12 hexadecimal digits that depend on the nine fields alone."""
        content = json.dumps(dataclasses.astuple(self), separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:_ID_LENGTH]

    @property
    def pooled(self) -> Cell:
        """The cell that pools this one's rows with other verticals'; it has no predictions of its own."""
        return dataclasses.replace(self, vertical=POOLED)

    @property
    def domains(self) -> tuple[str, ...] | None:
        """The domains whose rows it has; None for all."""
        if self.vertical == ALL:
            return None
        return tuple(self.vertical.split(JOIN)) if self.role == DOMAIN_TEACHER else (self.vertical,)

    def row_sets(self, verticals: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """What the cell is scored on: all of `row_sets` for vertical `all`, else each of its own verticals."""
        if self.domains is None:
            return row_sets(verticals)
        return {name: (name,) for name in self.domains}

    def __str__(self) -> str:
        return f"{self.cell_id} ({' '.join(str(value) for value in dataclasses.astuple(self))})"


def row_sets(verticals: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The row sets that are scored: every vertical by itself, and "pooled" over all of them.

    Args:
        verticals: domain names (`FeatureSchema.verticals`).

    Returns:
        Name of the row set -> domains whose rows it holds.
    """
    return {**{vertical: (vertical,) for vertical in verticals}, POOLED: tuple(verticals)}


CELL_COLUMNS = tuple(field.name for field in dataclasses.fields(Cell))


def write_cells(path: str | Path, cells: Iterable[Cell]) -> None:
    """Write `cells.csv` (cell_id and the nine fields; each cell once, sorted), all at once or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("cell_id", *CELL_COLUMNS))
        writer.writerows((cell.cell_id, *dataclasses.astuple(cell)) for cell in sorted(set(cells)))


def read_cells(path: str | Path) -> list[Cell]:
    """Read a `cells.csv`.

    Raises:
        CellError: no such file, other columns, an invalid cell, a cell_id that is not the cell's.
    """
    path = Path(path)
    if not path.is_file():
        raise CellError(f"cells: no file {path}. Is this a run folder, and has the run written predictions?")
    columns = ("cell_id", *CELL_COLUMNS)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != columns:
                raise CellError(f"{path}: columns: got {reader.fieldnames}, allowed: {', '.join(columns)}")
            return [_from_row(row, f"{path}:{reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CellError(f"{path}: is no table in UTF-8: {error}") from error


def _from_row(row: dict[str, str], where: str) -> Cell:
    if None in row or None in row.values():
        raise CellError(f"{where}: got a row of another length, allowed: {len(CELL_COLUMNS) + 1} columns")
    if not row["lag"].isdecimal():
        raise CellError(f"{where}: lag: got '{row['lag']}', allowed: a whole number of days >= 0")
    fields: dict[str, Any] = {name: row[name] for name in CELL_COLUMNS}
    cell = Cell(**fields | {"lag": int(row["lag"])})
    if cell.cell_id != row["cell_id"]:
        raise CellError(
            f"{where}: cell_id: got '{row['cell_id']}', allowed: {cell.cell_id}, the hash of its fields"
        )
    return cell
