"""Where benchmarks leave their tables: CSV files that are committed, by the machine that was measured."""

from __future__ import annotations

import csv
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.files import atomic_path
from experiments.pipeline.environment import ROOT

RESULTS = ROOT / "experiments" / "results"
CPUINFO = Path("/proc/cpuinfo")


def machine() -> str:
    """A short name of the processor, such as `intel_xeon`."""
    model = re.search(r"model name\s*: (.*)", CPUINFO.read_text()) if CPUINFO.is_file() else None
    words = re.sub(
        r"\(R\)|\(TM\)|@.*|\b(CPU|Processor)\b", " ", model.group(1) if model else platform.machine()
    )
    return "_".join(re.findall(r"[a-z0-9]+", words.lower()))


def save(name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a table, in the place of an earlier one.

    Args:
        name: of the file, without `.csv`.
        columns: of the table, in their order.
        rows: column to value, written as `str` writes it.

    Returns:
        The file.

    Raises:
        ValueError: a row has another column.
    """
    path = RESULTS / f"{name}.csv"
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
