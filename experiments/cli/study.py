"""Answer one question with a table: settings, the worth of every part, a scaling law, long histories.

    tune      which settings: equal trials for every channel set
    ablation  which parts of a model are worth their place, and does it beat tuned peers
    scaling   how quality grows with compute and parameters
    history   what thousands of events cost and bring

Tables are written under experiments/results; what is trained already is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distill.progress import progress_on
from experiments.cli.common import add_final, add_set

SET_EXAMPLES = "data.root=FOLDER"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study and its file."""
    studies = parser.add_subparsers(dest="study", metavar="STUDY", required=True)
    tune = studies.add_parser(
        "tune", help="equal trials for every channel set, on the tune days, seeds 100-102"
    )
    ablation = studies.add_parser(
        "ablation", help="a full model against itself without one part, and against tuned peers"
    )
    scaling = studies.add_parser("scaling", help="sizes and history lengths, and the law that they follow")
    history = studies.add_parser("history", help="cost and quality of thousands of past events")
    for name, study in (("tuning", tune), ("ablation", ablation), ("scaling", scaling), ("history", history)):
        example = f"experiments/{name}/{'simulator' if name == 'history' else 'kuairand'}.yaml"
        study.add_argument("file", metavar="FILE", type=Path, help=f"{name} file, such as {example}")
    for study in (ablation, scaling, history):
        add_set(study, SET_EXAMPLES)
    add_final(ablation)


def run(args: argparse.Namespace) -> int:
    """Run the study and print its table."""
    import experiments.catalog  # noqa: F401  fills the registries

    return _STUDIES[args.study](args)


def _tune(args: argparse.Namespace) -> int:
    from experiments.studies.tuning import read_tuning, tune

    for row in tune(read_tuning(args.file), progress_on()):
        print(
            f"{row['channel']:8} trial {row['trial']:>2}  macro log-loss {row['macro_logloss']}  {row['settings']}"
        )
    return 0


def _ablation(args: argparse.Namespace) -> int:
    from experiments.studies.ablation.file import read_ablation

    study = read_ablation(args.file)
    from experiments.studies.ablation.run import ablate
    from experiments.studies.ablation.show import print_ablation
    from experiments.studies.text import study_console

    print_ablation(ablate(study, args.file, args.overrides, args.final, progress_on()), study_console())
    return 0


def _scaling(args: argparse.Namespace) -> int:
    from experiments.studies.scaling.file import read_scaling

    study = read_scaling(args.file)
    from experiments.studies.scaling.run import scale
    from experiments.studies.scaling.show import print_scaling
    from experiments.studies.text import study_console

    print_scaling(scale(study, args.file, args.overrides, progress_on()), study_console())
    return 0


def _history(args: argparse.Namespace) -> int:
    from experiments.studies.history.file import read_history

    study = read_history(args.file)
    from experiments.studies import green
    from experiments.studies.history.run import remember
    from experiments.studies.history.show import print_history
    from experiments.studies.text import study_console

    if not green.tests_pass():
        print("distill: the tests of what is measured fail: nothing is measured", file=sys.stderr)
        return 1
    print_history(remember(study, args.file, args.overrides, progress_on()), study_console())
    return 0


_STUDIES = {"tune": _tune, "ablation": _ablation, "scaling": _scaling, "history": _history}
