"""Train teacher and students of an experiment, score them and write the report.

What the run folder holds already is kept: after an interruption the same command does the rest, a training that was
under way from its newest checkpoint on. `--resume` only says that there must be something to go on with.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from distill.errors import UserError
from experiments.cli.common import (
    add_experiment,
    add_final,
    add_on,
    add_quiet,
    load,
    run_steps,
    training_where,
    under_torchrun,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Experiment, `--set`, `--resume`, `--final`, `--on`, `--quiet`."""
    add_experiment(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run, and refuse to begin one: a mistyped folder is no new run then",
    )
    add_final(parser)
    add_on(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Every step, then what is to be said of the scores, and a summary that ends with the report."""
    if under_torchrun() and os.environ["RANK"] != "0":
        return _follow(args)
    if args.resume:
        refuse_new(Path(load(args).config.output))
    with training_where(args):
        folder = run_steps(args, ("teacher", "log", "student", "score"))
    from distill.results import read_results
    from experiments.closing import closing_lines
    from experiments.pipeline.sanity import sanity_lines
    from experiments.report import write_report

    for line in sanity_lines(read_results(folder / "results.json")["rows"]):
        print(line)
    print(*closing_lines(folder, write_report(folder)), sep="\n")
    return 0


def refuse_new(folder: Path) -> None:
    """Refuse a folder in which no run was begun.

    Raises:
        UserError: there is none.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"--resume: got the output {folder}, which holds no run; allowed: the output of a run that was begun. "
            "Leave --resume out to begin one."
        )


def _follow(args: argparse.Namespace) -> int:
    """Another process than torchrun's first: it trains the teacher with it, and says nothing."""
    loaded = load(args)
    from experiments.pipeline.torchrun import Meeting, follow

    follow(Meeting.taken(), loaded, args.final is not None)
    return 0
