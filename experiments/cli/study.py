"""Answer one question with a table: settings, the worth of every part, a scaling law, long histories, transfer.

Tables are written under experiments/results; what is trained already is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distill.fields import describe
from experiments.cli.common import add_final, add_on, add_quiet, add_set, progress_of, training_where
from experiments.studies.ablation.file import Ablation, Variant, read_ablation
from experiments.studies.efficiency.file import Efficiency, read_efficiency
from experiments.studies.history.file import History, Reader, read_history
from experiments.studies.scaling.file import Scaling, read_scaling
from experiments.studies.transfer.file import Slice, Transfer, read_transfer
from experiments.studies.tuning_file import Tuning, read_tuning

SUMMARIES = {
    "tune": "equal trials for every channel set, on the tune days, with seeds of their own",
    "ablation": "a full model against itself without one part, and against tuned peers",
    "scaling": "sizes and history lengths, and the law that their quality follows",
    "history": "what thousands of past events cost and bring",
    "efficiency": "where speed comes from: effective FLOP/s from padded, eager training upwards, and job starts",
    "transfer": "every channel on every student, with controls, and whether the whole is twice plain distillation",
}
EXAMPLES = {
    "tune": "experiments/tuning/kuairand.yaml",
    "ablation": "experiments/ablation/kuairand.yaml",
    "scaling": "experiments/scaling/simulator.yaml",
    "history": "experiments/history/simulator.yaml",
    "efficiency": "experiments/efficiency/simulator.yaml",
    "transfer": "experiments/transfer/kuairand.yaml",
}
FILES: dict[str, tuple[type, type | None]] = {
    "tune": (Tuning, None),
    "ablation": (Ablation, Variant),
    "scaling": (Scaling, None),
    "history": (History, Reader),
    "efficiency": (Efficiency, None),
    "transfer": (Transfer, Slice),
}
"""Study to the form of its file, and of each of its variants, readers or slices."""
_RED = "distill: the tests of what is measured fail: nothing is measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study and its file; the keys of the file are the epilogue."""
    studies = parser.add_subparsers(dest="study", metavar="STUDY", required=True)
    for name, summary in SUMMARIES.items():
        study = studies.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        study.add_argument("file", metavar="FILE", type=Path, help=f"such as {EXAMPLES[name]}")
        form, variant = FILES[name]
        study.epilog = f"keys of the file:\n{describe(form)}"
        study.epilog += (
            f"\n\nkeys of each {variant.__name__.lower()}:\n{describe(variant)}" if variant else ""
        )
        # What changes the result of a trial is written down with it.
        add_set(
            study, "data.root=FOLDER" + (", of those by which no result changes" if name == "tune" else "")
        )
        if name in ("ablation", "transfer"):
            add_final(study)
        if name == "efficiency":  # what is timed is this machine
            study.set_defaults(on=None)
        else:
            add_on(study)
        add_quiet(study)
        if name == "tune":
            study.add_argument(
                "--best", action="store_true", help="print the best trial of each channel set only"
            )


def run(args: argparse.Namespace) -> int:
    """Run the study and print its table."""
    import experiments.catalog  # noqa: F401  fills the registries

    with training_where(args):
        return _STUDIES[args.study](args)


def _tune(args: argparse.Namespace) -> int:
    from experiments.studies.tuning import best_of, left_aside, tune

    study = read_tuning(args.file)
    rows = tune(study, args.file, args.overrides, progress_of(args))
    for row in best_of(rows) if args.best else rows:
        print(
            f"{row['channel']:16} trial {row['trial']:>2}  macro log-loss {row['macro_logloss']}  {row['settings']}"
        )
    print(f"Table: {study.table}")
    if said := left_aside(study, rows):
        print(said)
    return 0


def _ablation(args: argparse.Namespace) -> int:
    study = read_ablation(args.file)
    from experiments.studies.ablation.run import ablate
    from experiments.studies.ablation.show import print_ablation
    from experiments.studies.text import study_console

    print_ablation(ablate(study, args.file, args.overrides, args.final, progress_of(args)), study_console())
    return 0


def _scaling(args: argparse.Namespace) -> int:
    study = read_scaling(args.file)
    from experiments.studies.scaling.run import scale
    from experiments.studies.scaling.show import print_scaling
    from experiments.studies.text import study_console

    print_scaling(scale(study, args.file, args.overrides, progress_of(args)), study_console())
    return 0


def _history(args: argparse.Namespace) -> int:
    study = read_history(args.file)
    from experiments.studies import green
    from experiments.studies.history.run import remember
    from experiments.studies.history.show import print_history
    from experiments.studies.text import study_console

    if not green.tests_pass():
        print(_RED, file=sys.stderr)
        return 1
    print_history(remember(study, args.file, args.overrides, progress_of(args)), study_console())
    return 0


def _efficiency(args: argparse.Namespace) -> int:
    study = read_efficiency(args.file)
    from experiments.studies import green
    from experiments.studies.efficiency.run import climb
    from experiments.studies.efficiency.show import print_efficiency
    from experiments.studies.text import study_console

    if not green.tests_pass():
        print(_RED, file=sys.stderr)
        return 1
    print_efficiency(climb(study, args.file, args.overrides, progress_of(args)), study_console())
    return 0


def _transfer(args: argparse.Namespace) -> int:
    study = read_transfer(args.file)
    from experiments.studies.text import study_console
    from experiments.studies.transfer.run import transfer
    from experiments.studies.transfer.show import print_transfer

    print_transfer(transfer(study, args.file, args.overrides, args.final, progress_of(args)), study_console())
    return 0


_STUDIES = {
    "tune": _tune,
    "ablation": _ablation,
    "scaling": _scaling,
    "history": _history,
    "efficiency": _efficiency,
    "transfer": _transfer,
}
