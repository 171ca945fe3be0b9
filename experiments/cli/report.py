"""Write the report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import argparse

from experiments.cli.common import folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run folder."""
    parser.add_argument("folder", metavar="FOLDER", help="run folder")


def run(args: argparse.Namespace) -> int:
    """Write it and say where."""
    path = folder(args.folder)
    from experiments.report import write_report

    print(f"Report: {write_report(path)}")
    return 0
