"""Compare the scores of runs in one table, and keep them as CSV files."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from experiments.cli.common import folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run folders, and where to keep their rows."""
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="run folder")
    parser.add_argument(
        "--save",
        metavar="FILE.csv",
        type=Path,
        help="write the rows of results.json there, and its transfer rows to FILE_transfer.csv beside it",
    )


def run(args: argparse.Namespace) -> int:
    """Print the comparison; write the rows where they were asked for."""
    folders = [folder(text) for text in args.folders]
    from rich.console import Console

    from experiments.compare import print_comparison

    print_comparison(folders, Console(file=sys.stdout))
    if args.save is not None:
        save_rows(folders, args.save)
    return 0


def save_rows(folders: list[Path], path: Path) -> None:
    """Write the rows and transfer rows of runs as CSV, the first run's first.

    Args:
        folders: run folders.
        path: file of the rows; the transfer rows lie beside it as `<stem>_transfer.csv`.
    """
    from distill.files import atomic_path
    from distill.results import ROW_COLUMNS, TRANSFER_COLUMNS, read_results

    results = [read_results(run_folder / "results.json") for run_folder in folders]
    transfer = path.with_name(f"{path.stem}_transfer{path.suffix}")
    for target, key, columns in ((path, "rows", ROW_COLUMNS), (transfer, "transfer", TRANSFER_COLUMNS)):
        with atomic_path(target) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for result in results for row in result[key])
