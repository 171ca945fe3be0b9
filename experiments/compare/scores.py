"""Tables of scores and of transfer ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from distill.measure import MEASURES
from distill.results import Row
from distill.transfer import MACRO
from experiments.compare.tables import Compared, marked, number, run_column, table_of
from experiments.recorded import RecordedRun
from experiments.summary import CONDITIONS, Entry, channel_order, conditions


@dataclass(frozen=True)
class Line:
    """One model of one run on one (vertical, task)."""

    run: Compared
    model: str
    entry: Entry
    has_gain: bool


def scored_tasks(runs: Sequence[Compared]) -> list[str]:
    """Tasks of all runs, in order."""
    return list(dict.fromkeys(panel.task for each in runs for panel in each.panels))


def score_table(runs: Sequence[Compared], vertical: str, task: str) -> Table:
    """Students by model and channel, then teachers; the runs of one channel stand below each other."""
    columns = ["NE", "gain", "AUC", "gain", "calibration"]
    table = table_of(f"{vertical}, {task}", runs, ["model", "channel"], columns)
    for line in lines_of(runs, vertical, task):
        entry = line.entry
        table.add_row(
            line.model,
            entry.label + (" (loses to its constant)" if entry.loses_to_constant else ""),
            *run_column(line.run, runs),
            number(entry.score("ne"), 4),
            _gain(line, "ne"),
            number(entry.score("auc"), 4),
            _gain(line, "auc"),
            number(entry.score("calibration"), 3),
            style="red" if entry.loses_to_constant else "bold" if not entry.is_student else "",
        )
    return table


def lines_of(runs: Sequence[Compared], vertical: str, task: str) -> list[Line]:
    """Every model of every run once, in the order of the tables."""
    lines = [line for each in runs for line in _lines(each, vertical, task)]
    order = channel_order(line.entry.channel for line in lines)
    lines.sort(key=lambda line: (not line.entry.is_student, line.model, order.index(line.entry.channel)))
    return lines


def transfer_table(runs: Sequence[Compared], task: str) -> Table:
    """Ratios with intervals, one line per channel and run."""
    columns = ["NE", "AUC", "NE after intercept"]
    table = table_of(f"transfer ratio, {task}", runs, ["model", "channel", "over"], columns)
    rows = [(each, row) for each in runs for row in _ratios(each.run) if row["task"] == task]
    order = channel_order(row["channel"] for _, row in rows)
    rows.sort(key=lambda item: (item[1]["model"], order.index(item[1]["channel"])))
    of_line: dict[tuple[str, ...], dict[str, str]] = {}
    for each, row in rows:
        label = " · ".join([row["channel"], *conditions(each.run, row, CONDITIONS)])
        over = "all verticals" if row["vertical"] == MACRO else row["vertical"]
        line = (row["model"], label, over, *run_column(each, runs))
        of_line.setdefault(line, {})[row["measure"]] = _ratio(row)
    for line, cells in of_line.items():
        table.add_row(*line, *(cells[measure] for measure in MEASURES))
    return table


def _lines(each: Compared, vertical: str, task: str) -> list[Line]:
    """A teacher has a gain where there is one `none` to gain over."""
    here = [panel for panel in each.panels if (panel.vertical, panel.task) == (vertical, task)]
    students = [Line(each, panel.model, entry, True) for panel in here for entry in panel.students]
    others = [Line(each, entry.model, entry, len(here) == 1) for panel in here[:1] for entry in panel.others]
    return students + others


def _ratios(run: RecordedRun) -> list[Row]:
    """Rows over all verticals; those of each vertical for students that do not serve all."""
    rows = [row for row in run.transfer if row["split"] == run.split]
    everywhere = {row["model"] for row in rows if row["vertical"] == MACRO}
    return [row for row in rows if row["vertical"] == MACRO or row["model"] not in everywhere]


def _gain(line: Line, measure: str) -> str:
    return marked(line.entry.gains.get(measure)) if line.has_gain else ""


def _ratio(row: Row) -> str:
    if row["tr"] is None:
        return "undefined"
    if row["tr_low"] is None or row["tr_high"] is None:
        return f"{row['tr']:z.2f}"
    return f"{row['tr']:z.2f} [{row['tr_low']:z.2f}, {row['tr_high']:z.2f}]"
