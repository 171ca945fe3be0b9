"""Train the students of an experiment on the teacher's log.

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
    """The step `student`."""
    print(f"Run folder: {run_steps(args, ('student',))}")
    return 0
