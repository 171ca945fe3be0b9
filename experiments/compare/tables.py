"""What the tables of the comparison share: the runs, columns, numbers with their marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from distill.interval import Estimate
from experiments.curves import Band
from experiments.recorded import RecordedRun
from experiments.summary import Panel

UNDEFINED = "–"
MARK = "*"


@dataclass(frozen=True)
class Compared:
    """A run as it is compared.

    Attributes:
        name: the experiment's, or the folder where two experiments carry one name.
        run: what it has written.
        panels: its scores.
    """

    name: str
    run: RecordedRun
    panels: list[Panel]


def table_of(title: str, runs: Sequence[Compared], names: Iterable[str], numbers: Iterable[str]) -> Table:
    """An empty table.

    Args:
        title: above it.
        runs: of several, each line names its own after the other names.
        names: columns of words.
        numbers: columns of figures.
    """
    table = Table(title=title, title_justify="left")
    for name in [*names, *(["run"] if len(runs) > 1 else [])]:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def run_column(each: Compared, runs: Sequence[Compared]) -> list[str]:
    """What a line says of its run: nothing where there is one run."""
    return [each.name] if len(runs) > 1 else []


def print_table(table: Table, console: Console) -> None:
    """Print a table that has lines, after an empty line."""
    if table.row_count:
        table.box = box.SIMPLE_HEAD if console.is_terminal else None
        console.print()
        console.print(table)


def number(value: Band | None, digits: int, sign: bool = False) -> str:
    """A mean over seeds."""
    return f"{value.mean:{'+' if sign else ''}.{digits}f}" if value else UNDEFINED


def marked(gain: Estimate | None) -> str:
    """A difference with its mark of significance; empty where there is none."""
    if gain is None or gain.value is None:
        return ""
    return f"{gain.value:+z.4f}{MARK if gain.excludes_zero else ' '}"
