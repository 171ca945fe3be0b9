"""Which pictures show how honest the probabilities are: reliability, and what adapters correct."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from experiments.corrections import Correction, corrections
from experiments.curves import Band
from experiments.recorded import RecordedRun
from experiments.reliability import Reliability
from experiments.report.days import Line, day_picture
from experiments.report.figures import Figure, FigureRow, by_task, pictured
from experiments.report.reliability import Curve, reliability_picture
from experiments.report.series import style_of
from experiments.summary import Entry, Panel


def reliability_figures(panels: Sequence[Panel], found: Reliability, channels: list[str]) -> list[FigureRow]:
    """A picture per panel, a row per task; what the legend says in numbers is the calibration error."""
    rows = []
    for task, of_task in by_task(pictured(panels)):
        figures = []
        for panel in of_task:
            curves = [
                Curve(entry.label, style_of(entry, channels), found[entry.cell_id, panel.vertical, task])
                for entry in panel.entries
            ]
            says = f"Reliability of {task} on {panel.vertical}, {panel.model}; calibration error by model: "
            says += ", ".join(curve.written for curve in curves) + "."
            figures.append(Figure(panel.vertical, panel.model, reliability_picture(curves, says)))
        rows.append(FigureRow(task, "observed over predicted rate by decile of the prediction", figures))
    return rows


def correction_figures(run: RecordedRun, panels: Sequence[Panel], channels: list[str]) -> list[FigureRow]:
    """Size, shift and gain of what channels with a learnt target did to the teacher, a picture per student."""
    of: dict[str, list[Figure]] = defaultdict(list)
    captions = {
        "size": ("size", "mean distance of the corrected target from the teacher, in logits"),
        "gain": (
            "gain",
            "the teacher's loss less the corrected target's, on labels known that day (above 0: better)",
        ),
    }
    for panel in _one_task(panels):
        learnt = [(entry, each) for entry in panel.students for each in corrections(run, entry.cell_id)]
        tasks = dict.fromkeys(task for _, each in learnt for task in each.shifts)
        captions |= {task: (f"shift of {task}", "target less teacher, in logits") for task in tasks}
        for name in captions:
            lines = [_line(entry, each, name, channels) for entry, each in learnt]
            lines = [each for each in lines if each.points]
            if lines:
                says = f"{': '.join(captions[name])}; {panel.vertical}, {panel.model}: " + _ends(lines)
                svg = day_picture(lines, run.judged_days, says, zero=name != "size", whole=True)
                of[name].append(Figure(panel.vertical, panel.model, svg))
    return [FigureRow(*captions[name], of[name]) for name in captions if of[name]]


def _one_task(panels: Sequence[Panel]) -> list[Panel]:
    """Each student once: a training corrects all of its tasks."""
    first = {(panel.vertical, panel.model): panel for panel in reversed(pictured(panels))}
    return list(reversed(first.values()))


def _line(entry: Entry, each: Correction, name: str, channels: list[str]) -> Line:
    points: Mapping[str, dict[int, Band]] = {"size": each.size, "gain": each.gain, **each.shifts}
    label = entry.label if each.channel in entry.label else f"{entry.label} · {each.channel}"
    return Line(label, style_of(entry, channels), points.get(name, {}))


def _ends(lines: Sequence[Line]) -> str:
    return "; ".join(
        f"{each.label} {list(each.points.values())[-1].mean:+z.4f} on day {max(each.points)}"
        for each in lines
    )
