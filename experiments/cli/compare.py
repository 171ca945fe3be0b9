"""Compare the scores of runs in one table."""

from __future__ import annotations

import argparse
import sys

from experiments.cli.common import folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run folders."""
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="run folder")


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    folders = [folder(text) for text in args.folders]
    from rich.console import Console

    from experiments.compare import print_comparison

    print_comparison(folders, Console(file=sys.stdout))
    return 0
