"""Which pictures the page shows: panels of a run turned into SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from distill.cells import POOLED
from distill.results import Row
from distill.transfer import MACRO
from experiments.curves import Band, DayScore, by_day
from experiments.recorded import STUDENT, RecordedRun
from experiments.report.bars import Bar, bar_picture
from experiments.report.cost import Point, cost_picture
from experiments.report.days import Line, day_picture
from experiments.report.gap import gap_picture
from experiments.report.series import style, style_of
from experiments.report.tables import transfer_table
from experiments.summary import CONDITIONS, Entry, Panel, channel_order, conditions

Curves = Mapping[tuple[str, str, str], Sequence[DayScore]]
"""(cell_id, vertical, task) to scores by day of all seeds."""

MEASURES = {"ne": "NE", "auc": "AUC", "ne_intercept": "NE after intercept"}


@dataclass(frozen=True)
class Figure:
    """A picture with its heading.

    Attributes:
        title: heading, a vertical or a measure.
        subtitle: what else tells it from its neighbours.
        svg: the picture.
    """

    title: str
    subtitle: str
    svg: str


@dataclass(frozen=True)
class FigureRow:
    """Figures to be compared, side by side.

    Attributes:
        task: heading.
        caption: what their axes show.
        figures: at least one.
    """

    task: str
    caption: str
    figures: list[Figure]


def gap_figures(panels: Sequence[Panel], channels: list[str]) -> list[FigureRow]:
    """The first picture, a row per task."""
    return [
        FigureRow(task, "NE", [Figure(p.vertical, p.model, gap_picture(p, channels)) for p in of_task])
        for task, of_task in by_task(pictured(panels))
    ]


def day_figures(
    run: RecordedRun, panels: Sequence[Panel], curves: Curves, channels: list[str]
) -> list[FigureRow]:
    """NE, its difference to `none` and AUC by day, a row each per task."""
    judged = list(run.judged_days)
    rows = []
    for task, of_task in by_task(pictured(panels)):
        for caption, zero, lines_of in (
            ("NE by day", False, _lines(lambda score: score.ne)),
            (
                "NE by day, difference to none (below 0: better)",
                True,
                _lines(lambda score: score.ne, relative=True),
            ),
            ("AUC by day", False, _lines(lambda score: score.auc)),
        ):
            drawn = [(panel, lines_of(panel, curves, channels)) for panel in of_task]
            figures = [
                Figure(p.vertical, p.model, day_picture(lines, judged, _says(caption, p, lines), zero))
                for p, lines in drawn
                if lines
            ]
            if figures:
                rows.append(FigureRow(task, caption, figures))
    return rows


def transfer_figures(run: RecordedRun, channels: list[str]) -> list[FigureRow]:
    """Transfer ratios of every student over all verticals; of each vertical where it does not serve all."""
    macro, single = transfer_table(run)
    everywhere = {row["model"] for row in macro}
    of: dict[tuple[str, str], dict[str, list[Bar]]] = defaultdict(lambda: defaultdict(list))
    for row in [*macro, *(row for row in single if row["model"] not in everywhere)]:
        place = "all verticals" if row["vertical"] == MACRO else row["vertical"]
        of[row["task"], f"{row['model']}, {place}"][row["measure"]].append(_bar(row, run, channels))
    return [
        FigureRow(task, place, [_transfer_figure(task, place, *item) for item in by_measure.items()])
        for (task, place), by_measure in of.items()
    ]


def cost_figures(run: RecordedRun, panels: Sequence[Panel], channels: list[str]) -> list[FigureRow]:
    """NE against processor time, a picture per panel, a row per task."""
    rows = []
    for task, of_task in by_task(pictured(panels)):
        drawn = [(panel, _points(run, panel, channels)) for panel in of_task]
        figures = [
            Figure(p.vertical, p.model, cost_picture(points, _cost_says(p, points)))
            for p, points in drawn
            if points
        ]
        if figures:
            rows.append(FigureRow(task, "NE against processor time", figures))
    return rows


def channels_of(run: RecordedRun) -> list[str]:
    """All channel sets of the run, in order."""
    return channel_order(cell.channel for cell in run.cells if cell.role == STUDENT)


def pictured(panels: Sequence[Panel]) -> list[Panel]:
    """Panels with a picture: scored verticals with a student; where nobody has one yet, those of the teacher."""
    scored = [p for p in panels if p.vertical != POOLED and any(entry.score("ne") for entry in p.entries)]
    return [panel for panel in scored if panel.students] or scored


def by_task(panels: Sequence[Panel]) -> list[tuple[str, list[Panel]]]:
    """Panels of each task, in order."""
    of: dict[str, list[Panel]] = defaultdict(list)
    for panel in panels:
        of[panel.task].append(panel)
    return list(of.items())


def _lines(value: Callable[[DayScore], float | None], relative: bool = False) -> Callable[..., list[Line]]:
    """(panel, curves, channels) -> lines of the entries; `relative` takes off `none` of the same seed."""

    def lines(panel: Panel, curves: Curves, channels: list[str]) -> list[Line]:
        base = _of(panel.none, panel, curves) if relative and panel.none else []
        known = {(score.seed, score.day): value(score) for score in base}

        def shown(score: DayScore) -> float | None:
            own, none = value(score), known.get((score.seed, score.day))
            return own if not relative else None if own is None or none is None else own - none

        entries = [entry for entry in panel.entries if not (relative and entry.is_none)]
        found = [(entry, by_day(_of(entry, panel, curves), shown)) for entry in entries]
        return [Line(entry.label, style_of(entry, channels), points) for entry, points in found if points]

    return lines


def _of(entry: Entry, panel: Panel, curves: Curves) -> Sequence[DayScore]:
    return curves.get((entry.cell_id, panel.vertical, panel.task), [])


def _says(caption: str, panel: Panel, lines: Sequence[Line]) -> str:
    def ends(points: Mapping[int, Band]) -> str:
        (first, start), (last, end) = list(points.items())[0], list(points.items())[-1]
        return f"{start.mean:.4f} on day {first} to {end.mean:.4f} on day {last}"

    return f"{caption}, {panel.task} on {panel.vertical}: " + "; ".join(
        f"{e.label} {ends(e.points)}" for e in lines
    )


def _bar(row: Row, run: RecordedRun, channels: list[str]) -> Bar:
    label = " · ".join([row["channel"], *conditions(run, row, CONDITIONS)])
    return Bar(label, style(STUDENT, row["channel"], channels), row["tr"], row["tr_low"], row["tr_high"])


def _transfer_figure(task: str, place: str, measure: str, bars: Sequence[Bar]) -> Figure:
    says = "; ".join(f"{bar.label} {bar.written}" for bar in bars)
    name = MEASURES[measure]
    return Figure(name, "", bar_picture(bars, f"Transfer ratio in {name}, {task}, {place}: {says}."))


def _points(run: RecordedRun, panel: Panel, channels: list[str]) -> list[Point]:
    points = []
    for entry in panel.entries:
        cost, score = run.cost(entry.cell_id), entry.score("ne")
        if cost and score:
            looks = style_of(entry, channels)
            points.append(Point(entry.label, looks, cost["cpu_seconds"], cost["parameters"], score.mean))
    return points


def _cost_says(panel: Panel, points: Sequence[Point]) -> str:
    found = ", ".join(f"{p.label} NE {p.ne:.4f} after {p.seconds:.1f} s" for p in points)
    return f"NE against processor time, {panel.task} on {panel.vertical}, {panel.model}: {found}."
