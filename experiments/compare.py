"""Runs beside each other in the terminal: teacher against students, every channel against `none`.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from distill.errors import UserError
from distill.measure import MEASURES
from distill.results import Row
from distill.transfer import MACRO
from experiments.curves import Band
from experiments.recorded import RecordedRun, read_run
from experiments.summary import CONDITIONS, Entry, Panel, channel_order, conditions, paired_gains, panels

_UNDEFINED = "–"
_MARK = "*"
_LEGEND = f"""
gain: over none, above 0 is better; {_MARK} its 95 % interval (paired by user and seed) excludes 0.
Transfer ratio: a channel's gain as a share of the teacher's; undefined where the teacher's is not clear."""
_WIDE = 1_000  # columns of a pipe, which has no width of its own


@dataclass(frozen=True)
class Compared:
    """A run as it is compared.

    Attributes:
        name: the experiment's, or the folder where two experiments carry one name.
        run: what it has written.
        panels: its scores.
    """

    name: str
    run: RecordedRun
    panels: list[Panel]


@dataclass(frozen=True)
class Line:
    """One model of one run on one (vertical, task)."""

    run: str
    model: str
    entry: Entry
    has_gain: bool


def print_comparison(folders: Sequence[Path], console: Console) -> None:
    """Print one table per (vertical, task) with the scores of all runs, then their transfer ratios.

    Args:
        folders: run folders.
        console: where to; a pipe gets plain text, as wide as it is.

    Raises:
        UserError: no run folder, or a run that is not scored.
    """
    runs = _read(folders)
    if not console.is_terminal:
        console.width = _WIDE
    for each in runs:
        console.print(_head(each), style="bold", highlight=False)
    for vertical, task in dict.fromkeys((p.vertical, p.task) for each in runs for p in each.panels):
        _print(_scores(runs, vertical, task), console)
    for task in dict.fromkeys(row["task"] for each in runs for row in _ratios(each.run)):
        _print(_transfer(runs, task), console)
    console.print(_LEGEND, highlight=False)


def _read(folders: Sequence[Path]) -> list[Compared]:
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        if not run.rows:
            raise UserError(
                f"{run.folder}: got a run without scores, allowed: scored runs. Finish it (`distill run`)."
            )
    names = [run.name for run in runs]
    unique = len(set(names)) == len(names)
    return [
        Compared(run.name if unique else str(run.folder), run, panels(run, paired_gains(run))) for run in runs
    ]


def _head(each: Compared) -> str:
    run = each.run
    kind = "final scores" if run.split == "test" else "development scores"
    days = f" of days {', '.join(map(str, run.judged_days))}" if run.judged_days else ""
    state = "" if run.complete else " (incomplete run)"
    return f"{each.name}: {kind}{days}, seeds {', '.join(map(str, run.seeds))}{state}"


def _scores(runs: Sequence[Compared], vertical: str, task: str) -> Table:
    """Students by model and channel, then teachers; the runs of one channel stand below each other."""
    table = Table(title=f"{vertical}, {task}", title_justify="left")
    _add_columns(
        table, ["model", "channel", *_run_column(runs)], ["NE", "gain", "AUC", "gain", "calibration"]
    )
    lines = [line for each in runs for line in _lines(each, vertical, task)]
    order = channel_order(line.entry.channel for line in lines)
    lines.sort(key=lambda line: (not line.entry.is_student, line.model, order.index(line.entry.channel)))
    for line in lines:
        entry = line.entry
        table.add_row(
            line.model,
            entry.label + (" (loses to its constant)" if entry.loses_to_constant else ""),
            *([line.run] if len(runs) > 1 else []),
            _number(entry.score("ne"), 4),
            _gain(line, "ne"),
            _number(entry.score("auc"), 4),
            _gain(line, "auc"),
            _number(entry.score("calibration"), 3),
            style="red" if entry.loses_to_constant else "bold" if not entry.is_student else "",
        )
    return table


def _lines(each: Compared, vertical: str, task: str) -> list[Line]:
    """Every model once; a teacher has a gain where there is one `none` to gain over."""
    here = [panel for panel in each.panels if (panel.vertical, panel.task) == (vertical, task)]
    students = [Line(each.name, panel.model, entry, True) for panel in here for entry in panel.students]
    others = [
        Line(each.name, entry.model, entry, len(here) == 1) for panel in here[:1] for entry in panel.others
    ]
    return students + others


def _transfer(runs: Sequence[Compared], task: str) -> Table:
    """Ratios with intervals, one line per channel and run."""
    table = Table(title=f"transfer ratio, {task}", title_justify="left")
    _add_columns(table, ["model", "channel", "over", *_run_column(runs)], ["NE", "AUC", "NE after intercept"])
    rows = [(each, row) for each in runs for row in _ratios(each.run) if row["task"] == task]
    order = channel_order(row["channel"] for _, row in rows)
    rows.sort(key=lambda item: (item[1]["model"], order.index(item[1]["channel"])))
    of_line: dict[tuple[str, ...], dict[str, str]] = {}
    for each, row in rows:
        label = " · ".join([row["channel"], *conditions(each.run, row, CONDITIONS)])
        over = "all verticals" if row["vertical"] == MACRO else row["vertical"]
        line = (row["model"], label, over, *([each.name] if len(runs) > 1 else []))
        of_line.setdefault(line, {})[row["measure"]] = _ratio(row)
    for line, cells in of_line.items():
        table.add_row(*line, *(cells[measure] for measure in MEASURES))
    return table


def _ratios(run: RecordedRun) -> list[Row]:
    """Rows over all verticals; those of each vertical for students that do not serve all."""
    rows = [row for row in run.transfer if row["split"] == run.split]
    everywhere = {row["model"] for row in rows if row["vertical"] == MACRO}
    return [row for row in rows if row["vertical"] == MACRO or row["model"] not in everywhere]


def _run_column(runs: Sequence[Compared]) -> list[str]:
    return ["run"] if len(runs) > 1 else []


def _add_columns(table: Table, names: Iterable[str], numbers: Iterable[str]) -> None:
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)


def _print(table: Table, console: Console) -> None:
    table.box = box.SIMPLE_HEAD if console.is_terminal else None
    console.print()
    console.print(table)


def _number(value: Band | None, digits: int) -> str:
    return f"{value.mean:.{digits}f}" if value else _UNDEFINED


def _gain(line: Line, measure: str) -> str:
    gain = line.entry.gains.get(measure) if line.has_gain else None
    if gain is None or gain.value is None:
        return ""
    return f"{gain.value:+.4f}{_MARK if gain.excludes_zero else ' '}"


def _ratio(row: Row) -> str:
    if row["tr"] is None:
        return "undefined"
    if row["tr_low"] is None or row["tr_high"] is None:
        return f"{row['tr']:.2f}"
    return f"{row['tr']:.2f} [{row['tr_low']:.2f}, {row['tr_high']:.2f}]"
