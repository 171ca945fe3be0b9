"""Write down what the teacher's snapshots say about every example.

One step of `distill run`, alone; the steps before it must be done.
"""

from __future__ import annotations

import argparse

from experiments.cli.common import add_experiment, add_final, add_quiet, run_steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Experiment, `--set`, `--final`, `--quiet`."""
    add_experiment(parser)
    add_final(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """The step `log`."""
    print(f"Run folder: {run_steps(args, ('log',))}")
    return 0
