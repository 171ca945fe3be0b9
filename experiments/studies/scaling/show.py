"""The scaling study in the terminal. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from distill.interval import Estimate
from experiments.quantity import listed
from experiments.studies.scaling.run import COMPUTE, Fitted, Scaled
from experiments.studies.text import UNDEFINED, large, new_table, print_table

_AGAINST = {"train_flops": "training FLOPs", "params": "parameters"}


def print_scaling(found: Scaled, console: Console) -> None:
    """Print points and laws of every task, then what they say."""
    seeds = listed("seed", found.study.seeds)
    console.print(f"{found.study.data}: tune days, pooled rows, {seeds}", highlight=False)
    for task in dict.fromkeys(point.task for point in found.points):
        print_table(_points(found, task), console)
    print_table(_laws(found), console)
    console.print()
    for line in conclusions(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Picture: {found.picture}", highlight=False, markup=False, soft_wrap=True)


def conclusions(found: Scaled) -> Iterator[str]:
    """One line per law over compute."""
    for fitted in found.laws:
        if fitted.against == COMPUTE:
            yield _conclusion(fitted)


def _conclusion(fitted: Fitted) -> str:
    law, events = fitted.law, "all histories" if fitted.history == "all" else f"{fitted.history} events"
    falls = "falls with every step" if law.monotone else "does NOT fall with every step"
    told = f"{fitted.task}, {events}: NE {falls} over {law.decades:.1f} decades of compute"
    if law.power is not None:
        told += f"; exponent {_interval(law.power.c, 3)}, R² {law.power.r2:.3f}"
    if law.line is not None:
        told += f"; {_interval(law.line.slope, 5)} per decade, R² {law.line.r2:.3f}"
    return told


def _points(found: Scaled, task: str) -> Table:
    table = new_table(
        f"{task}, pooled", ["size"], ["history", "parameters", "FLOPs of training", "NE", "AUC"]
    )
    for point in found.points:
        if point.task == task:
            table.add_row(
                point.size,
                f"{point.history:,}",
                large(point.params),
                large(point.train_flops),
                f"{point.ne.value:.4f}",
                f"{1 - point.auc.value:.4f}",
            )
    return table


def _laws(found: Scaled) -> Table:
    """Exponents and slopes."""
    names = ["task", "history", "against"]
    table = new_table(
        "laws", names, ["points", "decades", "monotone", "a", "exponent c", "R²", "NE per decade", "R²"]
    )
    for fitted in found.laws:
        law = fitted.law
        power, line = law.power, law.line
        table.add_row(
            fitted.task,
            fitted.history,
            _AGAINST[fitted.against],
            str(law.points),
            f"{law.decades:.2f}",
            "yes" if law.monotone else "no",
            _interval(power.a, 4) if power else UNDEFINED,
            _interval(power.c, 3) if power else UNDEFINED,
            f"{power.r2:.3f}" if power else UNDEFINED,
            _interval(line.slope, 5) if line else UNDEFINED,
            f"{line.r2:.3f}" if line else UNDEFINED,
        )
    return table


def _interval(found: Estimate, digits: int) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
