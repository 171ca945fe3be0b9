"""Train teacher and students of an experiment, score them and write the report.

What the run folder holds already is kept: after an interruption the same command does the rest.
"""

from __future__ import annotations

import argparse

from experiments.cli.common import add_experiment, add_final, add_on, run_steps, training_where


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Experiment, `--set`, `--final`, `--on`."""
    add_experiment(parser)
    add_final(parser)
    add_on(parser)


def run(args: argparse.Namespace) -> int:
    """Every step, then what is to be said of the scores, and the report."""
    with training_where(args):
        folder = run_steps(args, ("teacher", "log", "student", "score"))
    from distill.results import read_results
    from experiments.pipeline.sanity import sanity_lines
    from experiments.report import write_report

    for line in sanity_lines(read_results(folder / "results.json")["rows"]):
        print(line)
    print(f"Report: {write_report(folder)}")
    return 0
