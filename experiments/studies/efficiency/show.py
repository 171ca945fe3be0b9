"""The efficiency study in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

from rich.console import Console
from rich.table import Table

from experiments.studies.efficiency.run import Climbed, Factor
from experiments.studies.efficiency.start import STEPS
from experiments.studies.efficiency.work import BASELINE
from experiments.studies.text import UNDEFINED, large, new_table, number, print_table

MFU_BAR = 1.43
"""MFU over that of compiled, padded training, on a GPU."""
_PUBLISHED = "published: 16 x 1.43 = 23"


def print_efficiency(found: Climbed, console: Console) -> None:
    """Print ladder, starts and what they say."""
    study, result = found.study, found.result
    console.print(
        f"{study.data}: batches of {study.batch_size}, {result.events:.0f} events an example, to which padding adds "
        f"{100 * result.padding:.0f} %; {found.device}, one thread a process, {study.rounds} rounds",
        highlight=False,
        soft_wrap=True,
    )
    print_table(_ladder(found), console)
    if found.starts:
        print_table(_starts(found), console)
    console.print()
    for line in verdicts(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for path in found.tables:
        console.print(f"Table: {path}", highlight=False, markup=False, soft_wrap=True)


def verdicts(found: Climbed) -> Iterator[str]:
    """What the whole is made of; on a GPU, whether the bar is met."""
    first, last = found.steps[0], found.steps[-1]
    assert last.product is not None
    devices = last.devices / first.devices
    yield (
        f"effective FLOP/s: {_interval(last.product)} times those of padded, eager training = {devices:g} x as many "
        f"devices x {last.product.value / devices:.2f} x the MFU ({_PUBLISHED})"
    )
    baseline = found.result.flops_per_s.get(BASELINE.name)
    if baseline is not None:
        alone = [step for step in found.steps if step.devices == 1][-1]
        ratio = alone.flops_per_s / math.exp(fmean(map(math.log, baseline)))
        word = "met   " if ratio >= MFU_BAR else "MISSED"
        yield f"{word} MFU: {ratio:.2f} times that of padded, compiled training (bar: {MFU_BAR})"


def _ladder(found: Climbed) -> Table:
    numbers = ["devices", "FLOP/s", "MFU", "factor", "product"]
    table = new_table("ladder: each rung keeps what the ones before it have", ["rung", "precision"], numbers)
    for step in found.steps:
        table.add_row(
            step.rung,
            step.precision,
            str(step.devices),
            large(step.flops_per_s),
            UNDEFINED if step.mfu is None else f"{100 * step.mfu:.1f} %",
            _interval(step.factor),
            _interval(step.product),
        )
    return table


def _starts(found: Climbed) -> Table:
    numbers = ["ready after s", "imports s", "build s", f"first {STEPS} steps s", "of these compiling s"]
    table = new_table("start of a training, from launching its process", ["kind"], numbers)
    names = ("start_s", "imports_s", "build_s", "first_steps_s", "compile_s")
    for kind, starts in found.starts.items():
        table.add_row(kind, *(number(fmean(getattr(start, name) for start in starts), 1) for name in names))
    return table


def _interval(factor: Factor | None) -> str:
    return "" if factor is None else f"{factor.value:.2f} [{factor.low:.2f}, {factor.high:.2f}]"
