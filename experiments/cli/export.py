"""Export a trained student as one self-contained folder, served with torch and numpy alone.

    distill export runs/demo feed_dlrm --channel ah --precision int8
    distill score runs/demo/exports/feed_dlrm-feed-ah-0-int8 rows.parquet

The folder is compared with the trained student before it is kept; its MODEL_CARD.md says how well it agrees. W&B gets
a run that leads from the student to the export.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.cli.common import folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run, student, which training of it, and the form of its tables."""
    parser.add_argument("folder", metavar="RUN", help="run folder")
    parser.add_argument("student", metavar="STUDENT", help="name of the student")
    parser.add_argument("--vertical", help="surface; needed where the student serves several")
    parser.add_argument("--channel", help="channel set; needed where the student was trained with several")
    parser.add_argument("--seed", type=int, help="seed of the training; the run's first unless given")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the tables")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where to write; RUN/exports/... unless given"
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out AOTInductor's package, which takes a minute"
    )


def run(args: argparse.Namespace) -> int:
    """Write it, compare it, say where it is."""
    run_folder = folder(args.folder)
    import experiments.catalog  # noqa: F401  fills the registries
    from distill.quiet import without_advice
    from experiments.exporting import choose, shown, why_not_compiled, write_export
    from experiments.tracking import open_tracker
    from students.export.trace import compiler

    chosen = choose(run_folder, args.student, args.vertical, args.channel, args.seed)
    cell, tracker = chosen.cell, open_tracker(chosen.experiment, (run_folder / "config.yaml").read_text())
    name = f"{cell.model}-{cell.vertical}-{cell.channel}-{chosen.seed}-{args.precision}"
    target = args.to or run_folder / "exports" / name
    compiled = compiler() is not None and not args.no_compile
    command = (
        f"distill export {args.folder} {args.student} --vertical {cell.vertical} --channel {cell.channel}"
    )
    command += f" --seed {chosen.seed} --precision {args.precision}"
    with without_advice():
        parity = write_export(chosen, target, args.precision, compiled, command)
    tracker.exported(cell, chosen.seed, target)
    print(f"Compared with the trained student on {parity.rows} rows: {shown(parity)}")
    if not compiled:
        print(f"Not compiled: {why_not_compiled()}")
    print(f"Export: {target}")
    return 0
