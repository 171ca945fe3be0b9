"""Make a simulated data set, or describe a prepared one.

Experiments prepare their data by themselves and keep it under `data.cache`; these commands are for looking at
data apart from an experiment.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.checks import check_options
from distill.config import DataConfig, ScheduleConfig
from distill.errors import UserError
from distill.findings import Findings
from distill.overrides import apply_overrides
from distill.progress import progress_on
from distill.registry import SOURCES
from distill.strict_yaml import Document
from distill.structured import build
from experiments.cli.common import add_debug, add_set

if TYPE_CHECKING:
    from rich.table import Table

    from distill.dataset import DataSet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two verbs below `data`."""
    verbs = parser.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    what = "write a simulated data set with known truth"
    simulate = verbs.add_parser("simulate", help=what, description=what)
    simulate.add_argument("folder", metavar="FOLDER", help="folder to make")
    add_set(simulate, "days=3 or rows_per_day=5000 (`distill ls sources simulator`)")
    add_debug(simulate)
    what = "print schema, rows and rates of a prepared data set"
    describe = verbs.add_parser("describe", help=what, description=what)
    describe.add_argument(
        "folder", metavar="FOLDER", help="one of those under `data.cache`, such as runs/data/..."
    )
    add_debug(describe)
    describe.add_argument(
        "--through",
        metavar="DAY",
        type=int,
        default=max(ScheduleConfig().tune_days),
        help="last day whose labels are counted (default %(default)s: the days after it are the test)",
    )


def run(args: argparse.Namespace) -> int:
    """`simulate` or `describe`."""
    return _simulate(args) if args.data_verb == "simulate" else _describe(args)


def _simulate(args: argparse.Namespace) -> int:
    import experiments.catalog  # noqa: F401  fills the registries

    folder = Path(args.folder)
    if folder.exists():
        raise UserError(f"FOLDER: got {folder}, which is there already; allowed: a new folder")
    findings = Findings()
    options: dict[str, Any] = {}
    findings.place((), Document("distill data simulate", options, Path()))
    apply_overrides(options, args.overrides, findings)
    options = check_options(SOURCES, "simulator", options, ((), ()), findings)
    findings.raise_any()
    entry = SOURCES.get("simulator")
    data = DataConfig(source="simulator", options=options)
    entry.load()(build(entry.config, options), data, folder, progress_on())
    print(f"Data set: {folder}")
    return 0


def _describe(args: argparse.Namespace) -> int:
    from rich.console import Console

    from distill.dataset import DataSet

    data = DataSet.open(args.folder)
    schema = data.schema
    if not 1 <= args.through <= schema.n_days:
        raise UserError(
            f"--through: got {args.through}, allowed: 1 to {schema.n_days}, the days of the data set"
        )
    console = Console(highlight=False, markup=False)
    console.print(f"{data.source} data set, {data.rows:,} rows, fingerprint {data.fingerprint[:12]}")
    for table in (_features(data), _days(data), _rates(data, args.through)):
        console.print(table)
    return 0


def _features(data: DataSet) -> Table:
    from rich.table import Table

    from distill.describe import modalities

    table = Table("feature", "group", "ids", title="inputs", title_justify="left")
    for feature in data.schema.sparse.values():
        kind = "" if feature.ids == "rows" else f" by {feature.ids}"
        several = " (several)" if feature.multi else ""
        table.add_row(feature.name, feature.group, f"{feature.size:,}{kind}{several}")
    for name in data.schema.dense:
        table.add_row(name, "", "a number")
    for name, content in modalities(data).items():
        table.add_row(
            name, "item", f"{content['width']} numbers, known of {content['known']:.1%} of the items"
        )
    return table


def _days(data: DataSet) -> Table:
    from rich.table import Table

    table = Table("day", "date", "rows", title="days", title_justify="left")
    for day, info in enumerate(data.schema.days, start=1):
        table.add_row(str(day), info.date, f"{data.rows_per_day[day]:,}")
    return table


def _rates(data: DataSet, through: int) -> Table:
    from rich.table import Table

    positives, known = data.label_counts(range(1, through + 1))
    title = f"labels of days 1 to {through}"
    table = Table("surface", "task", "known", "positives", "rate", title=title, title_justify="left")
    for index, domain in enumerate(data.schema.domains):
        for k, task in enumerate(data.schema.task_names):
            rows, ones = int(known[index, k]), int(positives[index, k])
            rate = f"{ones / rows:.4f}" if rows else "none"
            table.add_row(domain, task, f"{rows:,}", f"{ones:,}", rate)
    return table
