"""Tables of studies: CSV files that are committed. Free of torch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import atomic_path

Row = Mapping[str, Any]
"""Column to value; None is an empty field."""

_DIGITS = 7


def read_table(path: Path, columns: Sequence[str], before: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a table as text; none when there is no such file.

    Args:
        path: the table.
        columns: its columns.
        before: those that it may have from an earlier version; what is missing of `columns` is empty then.

    Raises:
        UserError: a file with other columns.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) not in (tuple(columns), tuple(before) or tuple(columns)):
            raise UserError(
                f"{path}: columns: got {', '.join(reader.fieldnames or ())}, allowed: {', '.join(columns)}. "
                "Name another table, or move that file away."
            )
        return [dict.fromkeys(columns, "") | row for row in reader]


def renew_table(path: Path, columns: Sequence[str], before: Sequence[str]) -> None:
    """Give a table of an earlier version the columns of now; no file stays none.

    Args:
        path, columns, before: of `read_table`.
    """
    if path.is_file():
        _write(path, columns, read_table(path, columns, before))


def append_row(path: Path, columns: Sequence[str], row: Row) -> None:
    """Add one row, and the head of a new table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(as_text(row))


def replace_rows(path: Path, columns: Sequence[str], rows: Sequence[Row], same: Sequence[str]) -> None:
    """Put new rows in the place of those that they renew, all at once or not at all; other rows stay, first.

    Args:
        path: the table.
        columns: its columns.
        rows: new ones.
        same: columns in which a row that goes equals one of the new rows, such as (data, split).

    Raises:
        UserError: the file has other columns.
    """
    renewed = {tuple(str(row[column]) for column in same) for row in rows}
    kept = [r for r in read_table(path, columns) if tuple(r[column] for column in same) not in renewed]
    _write(path, columns, [*kept, *rows])


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(as_text(row) for row in rows)


def as_text(row: Row) -> dict[str, str]:
    """Fields as they are written: floats with seven digits, None as nothing."""
    return {
        name: "" if value is None else f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)
        for name, value in row.items()
    }


def beside(table: Path, suffix: str) -> Path:
    """`gem_ablation.csv` and `differences` as `gem_ablation_differences.csv`."""
    return table.with_name(f"{table.stem}_{suffix}{table.suffix}")
