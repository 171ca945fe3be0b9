"""Answer one question with a table: `tune` chooses settings on the tune days.

The table is committed under experiments/results; trials that it holds already are not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.progress import progress_on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study and its file."""
    studies = parser.add_subparsers(dest="study", metavar="STUDY", required=True)
    tune = studies.add_parser(
        "tune", help="equal trials for every channel set, on the tune days, seeds 100-102"
    )
    tune.add_argument(
        "file", metavar="FILE", type=Path, help="tuning file, such as experiments/tuning/kuairand.yaml"
    )


def run(args: argparse.Namespace) -> int:
    """Run the study and print its table."""
    import experiments.catalog  # noqa: F401  fills the registries
    from experiments.studies.tuning import read_tuning, tune

    for row in tune(read_tuning(args.file), progress_on()):
        print(
            f"{row['channel']:8} trial {row['trial']:>2}  macro log-loss {row['macro_logloss']}  {row['settings']}"
        )
    return 0
