"""Tables of what stands behind the scores: calibration, corrections, slices, cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from distill.cells import POOLED
from experiments.compare.scores import lines_of
from experiments.compare.tables import UNDEFINED, Compared, marked, number, run_column, table_of
from experiments.corrections import corrections
from experiments.familiarity import GROUPS, familiarity_of
from experiments.quantity import quantity
from experiments.reliability import calibration_error, reliability
from experiments.slices import Slice, SliceTable, slice_tables
from experiments.summary import Panel


def calibration_table(runs: Sequence[Compared], task: str) -> Table:
    """Calibration error of every model on each vertical."""
    verticals = _verticals(runs)
    table = table_of(f"calibration error, {task}", runs, ["model", "channel"], verticals)
    of_line: dict[tuple[str, ...], dict[str, str]] = {}
    for each in runs:
        found = reliability(each.run, [panel for panel in each.panels if panel.task == task])
        for vertical in verticals:
            for line in lines_of([each], vertical, task):
                tenths = found[line.entry.cell_id, vertical, task]
                names = (line.model, line.entry.label, *run_column(each, runs))
                of_line.setdefault(names, {})[vertical] = f"{calibration_error(tenths):.4f}"
    for names, cells in of_line.items():
        table.add_row(*names, *(cells.get(vertical, "") for vertical in verticals))
    return table


def correction_table(runs: Sequence[Compared]) -> Table:
    """What adapters and gates make of the teacher on the last day that each was trained on."""
    learnt = [
        (each, panel, entry.label, correction)
        for each in runs
        for panel in _students(each)
        for entry in panel.students
        for correction in corrections(each.run, entry.cell_id)
        if correction.size
    ]
    tasks = list(dict.fromkeys(task for *_, correction in learnt for task in correction.shifts))
    columns = ["day", "size", "gain", *(f"shift {task}" for task in tasks)]
    table = table_of(
        "corrected teacher, in logits; gain in its loss", runs, ["model", "vertical", "channel"], columns
    )
    for each, panel, label, correction in learnt:
        day = max(correction.size)
        shifts = [number(correction.shifts.get(task, {}).get(day), 3, sign=True) for task in tasks]
        name = label if correction.channel in label else f"{label} · {correction.channel}"
        names = (panel.model, panel.vertical, name, *run_column(each, runs))
        size, gain = number(correction.size[day], 3), number(correction.gain.get(day), 4, sign=True)
        table.add_row(*names, str(day), size, gain, *shifts)
    return table


def slice_tables_of(runs: Sequence[Compared]) -> list[Table]:
    """Gains in NE by slice, a table per (vertical, task); runs whose data set is gone have no lines."""
    found = [(each, table) for each in runs for table in _slices(each)]
    places = dict.fromkeys((table.vertical, table.task) for _, table in found)
    return [_slice_table(runs, found, *place) for place in places]


def cost_table(runs: Sequence[Compared]) -> Table:
    """Size and time of one training, means over seeds."""
    columns = ["parameters", "FLOPs/example", "processor s", "examples/s"]
    table = table_of("cost of one training", runs, ["model", "vertical", "channel"], columns)
    cells = [(each, cell, each.run.cost(cell.cell_id)) for each in runs for cell in each.run.cells]
    for each, cell, cost in cells:
        if cost is not None:
            table.add_row(
                cell.model,
                cell.vertical,
                cell.channel,
                *run_column(each, runs),
                quantity(cost["parameters"]),
                quantity(cost["flops_per_example"]),
                f"{cost['cpu_seconds']:,.1f}",
                f"{cost['examples_per_second']:,.0f}",
            )
    return table


def _verticals(runs: Sequence[Compared]) -> list[str]:
    return list(dict.fromkeys(p.vertical for each in runs for p in each.panels if p.vertical != POOLED))


def _students(each: Compared) -> list[Panel]:
    """Each student on each vertical once, whatever its tasks."""
    shown = [panel for panel in each.panels if panel.vertical != POOLED]
    return list({(panel.model, panel.vertical): panel for panel in reversed(shown)}.values())[::-1]


def _slices(each: Compared) -> list[SliceTable]:
    familiar = familiarity_of(each.run)
    return [] if isinstance(familiar, str) else slice_tables(each.run, each.panels, familiar)


def _slice_table(
    runs: Sequence[Compared], found: Sequence[tuple[Compared, SliceTable]], vertical: str, task: str
) -> Table:
    """Examples of the slices, then a line per channel."""
    here = [(each, t) for each, t in found if (t.vertical, t.task) == (vertical, task)]
    groups = [group for group in GROUPS if any(s.name == group for _, t in here for s in t.slices)]
    heads = [group.replace(" user, ", "/").replace(" item", "") for group in groups]
    table = table_of(f"slices of {vertical}, {task}", runs, ["model", "channel"], heads)
    for each, one in here:
        of = {part.name: part for part in one.slices}
        counts = [f"{of[group].examples:,} " if group in of else UNDEFINED for group in groups]
        table.add_row(one.model, "examples", *run_column(each, runs), *counts)
        for entry in one.columns:
            gains = [_gain_in(of.get(group), entry.label) for group in groups]
            table.add_row(one.model, entry.label, *run_column(each, runs), *gains)
    return table


def _gain_in(part: Slice | None, label: str) -> str:
    return marked(part.gains.get(label)) if part else ""
