"""Write the report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import argparse

from experiments.cli.common import folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run folder, and whether to follow the run."""
    parser.add_argument("folder", metavar="FOLDER", help="run folder")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="follow a running experiment: the page is written anew, and reloads itself, until the run has ended",
    )


def run(args: argparse.Namespace) -> int:
    """Write it and say where."""
    path = folder(args.folder)
    if args.watch:
        from experiments.watch import watch

        print(f"Following {path} until it has ended, or until Ctrl-C: open its report.html.", flush=True)
        print(f"Report: {watch(path)}")
    else:
        from experiments.report import write_report

        print(f"Report: {write_report(path)}")
    return 0
