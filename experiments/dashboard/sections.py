"""The sections of a workspace. A panel is given a key and shows every run of the page that logs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from distill.transfer import MACRO
from experiments import tracking_keys as keys
from experiments.curves import MEASURES
from experiments.dashboard.shown import Shown, Student, unique

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section

_NAMES = {"ne": "NE", "auc": "AUC", "calibration": "calibration"}
_CHANNEL = "cell.channel"
_COLUMNS = 3


def teacher_section(shown: Shown) -> Section:
    """The teacher alone, by day: a row of NE, AUC and calibration per vertical and task."""
    places = [(vertical, task) for vertical, task in shown.places if task in shown.teacher_tasks]
    return _section("Teacher", [_by_day(*p, m, keys.teacher_curve(*p, m)) for p in places for m in MEASURES])


def students_section(students: Sequence[Student]) -> Section:
    """Students by day, the teacher pinned beside them."""
    panels = [_by_day(*p, m, keys.curve(*p, m)) for p in places(students) for m in MEASURES]
    return _section("Students", panels, is_open=True)


def transfer_section(shown: Shown, students: Sequence[Student]) -> Section:
    """Transfer ratios by channel: on every vertical; of a student that serves all of them, over all. Empty without a
    teacher, whose gain is the measure."""
    taught = [student for student in students if student.sets and shown.teacher is not None]
    panels = []
    for vertical, task in places(taught):
        # Bars of several students would be averaged: where there are several, each run has a bar of its own.
        single = sum(vertical in student.verticals and task in student.tasks for student in taught) == 1
        panels += [_ratio(shown, vertical, task, measure, by_channel=single) for measure in ("ne", "auc")]
    if len(taught) == 1 and len(shown.verticals) > 1 and set(taught[0].verticals) == set(shown.verticals):
        panels += [
            _ratio(shown, MACRO, t, m, by_channel=True) for t in taught[0].tasks for m in ("ne", "auc")
        ]
    return _section("Transfer", panels, columns=2)


def cost_section(shown: Shown, students: Sequence[Student]) -> Section:
    """Quality against FLOPs, parameters and time; speed by day."""
    costs = {
        "flops_per_example": "training FLOPs per example",
        "parameters": "parameters",
        "cpu_seconds": "processor time of the training, s",
    }
    panels = [
        _quality(shown, vertical, task, name, text)
        for vertical, task in places(students)
        for name, text in costs.items()
    ]
    speed = _line("examples/s in training, by day", keys.EXAMPLES_PER_S, "examples/s")
    return _section("Cost", [*panels, speed])


def tables_section(shown: Shown, students: Sequence[Student]) -> Section:
    """Scores per seed, transfer with intervals, the worst calibrated slices."""
    from wandb_workspaces.reports import v2 as wr

    has_transfer = shown.teacher is not None and any(student.sets for student in students)
    names = [keys.SEEDS_TABLE, *([keys.TRANSFER_TABLE] if has_transfer else []), keys.SLICES_TABLE]
    return _section("Tables", [wr.WeavePanelSummaryTable(table_name=name) for name in names], columns=1)


def places(students: Iterable[Student]) -> list[tuple[str, str]]:
    """(vertical, task) that some of them predict, each once."""
    return unique((v, task) for student in students for v in student.verticals for task in student.tasks)


def _by_day(vertical: str, task: str, measure: str, key: str) -> Any:
    return _line(f"{vertical}, {task}: {_NAMES[measure]} by day", key, _NAMES[measure])


def _line(title: str, key: str, unit: str) -> Any:
    from wandb_workspaces.reports import v2 as wr

    return wr.LinePlot(title=title, x=keys.DAY, y=[key], title_x="day", title_y=unit, smoothing_type="none")


def _ratio(shown: Shown, vertical: str, task: str, measure: str, by_channel: bool) -> Any:
    from wandb_workspaces.reports import v2 as wr

    where = "all verticals" if vertical == MACRO else vertical
    return wr.BarPlot(
        title=f"{where}, {task}: transfer ratio in {_NAMES[measure]}, {shown.split} days",
        metrics=[wr.SummaryMetric(keys.transfer(shown.split, vertical, task, measure))],
        title_x="share of the teacher's gain that arrives",
        groupby=wr.Config(_CHANNEL) if by_channel else None,
        groupby_aggfunc="mean" if by_channel else None,
        max_bars_to_show=shown.runs,
    )


def _quality(shown: Shown, vertical: str, task: str, cost: str, text: str) -> Any:
    from wandb_workspaces.reports import v2 as wr

    return wr.ScatterPlot(
        title=f"{vertical}, {task}: NE of the {shown.split} days against {text}",
        x=wr.SummaryMetric(keys.cost(cost)),
        y=wr.SummaryMetric(keys.final(shown.split, vertical, task, "ne")),
        log_x=True,
    )


def _section(name: str, panels: Sequence[Any], columns: int = _COLUMNS, is_open: bool = False) -> Section:
    import wandb_workspaces.workspaces as ws

    rows = min(3, max(1, -(-len(panels) // columns)))
    layout = ws.SectionLayoutSettings(columns=columns, rows=rows)
    return ws.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)
