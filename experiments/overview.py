"""What a run says in a few lines: the best channel of every student, what is clear, what it cost. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.cells import POOLED
from distill.interval import Estimate
from distill.results import Row
from distill.transfer import MACRO
from experiments.recorded import STUDENT, TEACHER, RecordedRun
from experiments.summary import Entry, Panel


@dataclass(frozen=True)
class Best:
    """A student on one (vertical, task), by the channel that gains most in NE.

    Attributes:
        panel: the student.
        none: without transfer.
        teacher: beside it; None where there is none.
        entry: the best channel; None where no other than `none` is scored.
        gain: NE of `none` less that of `entry`.
        transfer: `entry`'s row of results.json; None where there is none.
        channels: how many were compared.
    """

    panel: Panel
    none: Entry
    teacher: Entry | None
    entry: Entry | None
    gain: Estimate | None
    transfer: Row | None
    channels: int


def best_channels(run: RecordedRun, panels: Sequence[Panel]) -> list[Best]:
    """One per panel that has a `none`, pooled rows apart."""
    return [
        _best(run, panel, panel.none)
        for panel in panels
        if panel.none is not None and panel.vertical != POOLED
    ]


def findings(run: RecordedRun, panels: Sequence[Panel]) -> list[str]:
    """Sentences: what arrives by task, how many gains are clear, who loses to the constant, what the teacher costs."""
    shown = [panel for panel in panels if panel.vertical != POOLED]
    lines = [_most(run, task) for task in dict.fromkeys(panel.task for panel in shown)]
    lines += [_clear(shown, len(run.seeds)), _losing(shown), _teacher_cost(run)]
    return [line for line in lines if line]


def _best(run: RecordedRun, panel: Panel, none: Entry) -> Best:
    measured = [entry for entry in panel.students if not entry.is_none and _gain(entry) is not None]
    entry = max(measured, key=_value, default=None)
    teacher = next((other for other in panel.others if other.role == TEACHER), None)
    row = None if entry is None else _transfer_row(run, panel, entry)
    gain = None if entry is None else _gain(entry)
    return Best(panel, none, teacher, entry, gain, row, len(measured))


def _gain(entry: Entry) -> Estimate | None:
    gain = entry.gains.get("ne")
    return None if gain is None or gain.value is None else gain


def _value(entry: Entry) -> float:
    gain = _gain(entry)
    assert gain is not None and gain.value is not None
    return gain.value


def _transfer_row(run: RecordedRun, panel: Panel, entry: Entry) -> Row | None:
    first = entry.rows[0]
    same = ("model", "schedule", "inputs", "route", "lag", "channel", "task", "split")
    rows = [
        row
        for row in run.transfer
        if row["measure"] == "ne"
        and row["vertical"] == panel.vertical
        and all(row[name] == first[name] for name in same)
    ]
    return rows[0] if rows else None


def _most(run: RecordedRun, task: str) -> str:
    """The channel that carries most over all verticals; on a single one where no student serves all."""
    rows = [r for r in run.transfer if (r["task"], r["measure"], r["split"]) == (task, "ne", run.split)]
    rows = [row for row in rows if row["vertical"] == MACRO] or rows
    defined = [row for row in rows if row["tr"] is not None]
    if not rows:
        return ""
    if not defined:
        return f"{task}: the teacher is not clearly better than students without it, so there is no transfer ratio."
    best = max(defined, key=lambda row: row["tr"])
    place = "over all verticals" if best["vertical"] == MACRO else f"on {best['vertical']}"
    interval = f"(95 % interval {_percent(best['tr_low'])} to {_percent(best['tr_high'])})"
    return (
        f"{task}: {best['channel']} carries {_percent(best['tr'])} of the teacher's gain to {best['model']} {place} "
        f"{interval}{f', the most of {len(defined)} compared' if len(defined) > 1 else ''}."
    )


def _clear(panels: Sequence[Panel], seeds: int) -> str:
    gains = [_gain(entry) for panel in panels for entry in panel.students if not entry.is_none]
    known = [gain for gain in gains if gain is not None and gain.value is not None]
    if not known:
        return ""
    better = sum(gain.above_zero for gain in known)
    worse = sum(gain.excludes_zero for gain in known) - better
    return (
        f"Of {len(known)} gains in NE over none (student, channel, vertical and task), {better} are clearly above 0 "
        f"and {worse} clearly below. By chance alone, one in 20 would be clear."
        + (" With one seed, intervals do not count the luck of a training." if seeds == 1 else "")
    )


def _losing(panels: Sequence[Panel]) -> str:
    places = {(e.cell_id, p.vertical, p.task) for p in panels for e in p.entries if e.loses_to_constant}
    if not places:
        return "No model loses to predicting the base rate."
    if len(places) == 1:
        return "1 score is worse than predicting the base rate; it is marked."
    return f"{len(places)} scores are worse than predicting the base rate; they are marked."


def _teacher_cost(run: RecordedRun) -> str:
    """The teacher beside the median student's training."""
    costs = {cell.cell_id: run.cost(cell.cell_id) for cell in run.cells}
    teachers = [costs[cell.cell_id] for cell in run.cells if cell.role == TEACHER]
    others = [costs[cell.cell_id] for cell in run.cells if cell.role == STUDENT]
    known = sorted((cost["flops_per_example"] for cost in others if cost), reverse=True)
    if not known or not teachers or teachers[0] is None:
        return ""
    times = teachers[0]["flops_per_example"] / known[len(known) // 2]
    written = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
    return f"An example costs the teacher {written} times the FLOPs of the median student, in training."


def _percent(share: float) -> str:
    # Adding 0 makes -0 a plain 0.
    return f"{round(100 * share) + 0.0:.0f} %".replace("-", "−")
