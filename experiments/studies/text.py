"""How studies print numbers and tables. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

UNDEFINED = "–"
_MARK = "*"
_WIDE = 1_000  # columns of a pipe, which has no width of its own


def study_console() -> Console:
    """Where studies print: a pipe gets plain text, as wide as it is."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    return console


def new_table(title: str, names: Iterable[str], numbers: Iterable[str]) -> Table:
    """An empty table: names to the left, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def print_table(table: Table, console: Console) -> None:
    """Print with a line under the head on a terminal, plainly elsewhere."""
    table.box = box.SIMPLE_HEAD if console.is_terminal else None
    console.print()
    console.print(table)


def number(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return UNDEFINED if value is None else f"{value:z,.{digits}f}"


def large(value: float | None) -> str:
    """A count as people say it: 950, 12.3 k, 4.56 M, 7.89 G."""
    if value is None:
        return UNDEFINED
    for unit, size in ((" P", 1e15), (" T", 1e12), (" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def gain_text(row: Mapping[str, Any] | None) -> str:
    """A gain, marked when its interval excludes 0; nothing when there is none."""
    if row is None or row["gain"] is None:
        return ""
    low, high = row["low"], row["high"]
    clear = low is not None and (low > 0 or high < 0)
    return f"{row['gain']:+z.4f}{_MARK if clear else ' '}"


def interval_text(row: Mapping[str, Any], digits: int = 4) -> str:
    """A value with its interval."""
    if row["low"] is None:
        return f"{row['gain']:+z.{digits}f}"
    return f"{row['gain']:+z.{digits}f} [{row['low']:+z.{digits}f}, {row['high']:+z.{digits}f}]"
