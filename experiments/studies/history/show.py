"""The history study in the terminal. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from rich.console import Console
from rich.table import Table

from experiments.quantity import listed
from experiments.studies.history.run import Remembered
from experiments.studies.history.timing import Place
from experiments.studies.text import UNDEFINED, gain_text, new_table, number, print_table

STEEPEST = 1.5
"""Bar: an added event costs at most so many times as much at the longest history as at the second."""

MOST_MIB = 8 * 1024
"""Bar: a training step fits in so much memory."""


def print_history(found: Remembered, console: Console) -> None:
    """Print costs and qualities, then the bars."""
    study = found.study
    seeds = listed("seed", study.seeds)
    console.print(
        f"{study.data}: batches of {study.batch_size}, one thread; tune days, pooled rows, {seeds}",
        highlight=False,
    )
    print_table(_costs(found), console)
    for task in dict.fromkeys(row["task"] for row in found.rows if row["task"]):
        print_table(_quality(found, task), console)
    console.print()
    for line in verdicts(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_LEGEND, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Picture: {found.picture}", highlight=False, markup=False, soft_wrap=True)


_LEGEND = """
gain: over the variant's shortest history, and over the first variant at the same length; above 0 is better.
* its 95 % interval (paired by user and seed) excludes 0."""


def verdicts(found: Remembered) -> Iterator[str]:
    """One line per bar and variant: `met` or `MISSED`."""
    for name, reader in found.study.variants.items():
        added = {events: found.costs[name, events].ms_per_1000_events for events in reader.events[1:]}
        if len(added) > 1:
            yield _steepness(name, reader.events[1], reader.events[-1], added)
        longest = reader.events[-1]
        peak = found.costs[name, longest].peak_mib
        yield (
            f"{_word(peak < MOST_MIB)} {name}: a batch of {found.study.batch_size} with {longest:,} events takes "
            f"{peak / 1024:.2f} GiB (bar: 8)"
        )


def _steepness(name: str, early: int, late: int, added: dict[int, float | None]) -> str:
    first, last = added[early], added[late]
    assert first is not None and last is not None
    if first <= 0:
        return f"{_word(False)} {name}: {early:,} events took no longer than fewer did: measure again, with more steps"
    ratio = last / first
    return (
        f"{_word(ratio <= STEEPEST)} {name}: an added event costs {ratio:.2f} times as much at {late:,} as at "
        f"{early:,} ({last:.1f} against {first:.1f} ms per 1,000; bar: {STEEPEST})"
    )


def _costs(found: Remembered) -> Table:
    numbers = ["events", "ms per batch", "ms per 1,000 added events", "peak MiB"]
    table = new_table("cost", ["variant"], numbers)
    for (name, events), cost in found.costs.items():
        table.add_row(
            name,
            f"{events:,}",
            number(cost.ms_per_batch, 1),
            number(cost.ms_per_1000_events, 1),
            number(cost.peak_mib, 0),
        )
    return table


def _quality(found: Remembered, task: str) -> Table:
    first = found.study.trained[0][0]
    several = len({name for name, _ in found.study.trained}) > 1
    over = [f"gain over {first}"] if several else []
    table = new_table(f"{task}, pooled", ["variant"], ["events", "NE", "gain", *over, "AUC", "gain", *over])
    for name, events in found.study.trained:
        cells = []
        for measure in ("ne", "auc"):
            values = [
                row[measure]
                for row in found.rows
                if (row["variant"], row["events"], row["task"]) == (name, events, task)
            ]
            cells.append(number(fmean(values), 4) if None not in values else UNDEFINED)
            shortest = (name, found.study.variants[name].lengths[0])
            others = [shortest, (first, events)] if several else [shortest]
            cells += [_gain(found, (name, events), of, task, measure) for of in others]
        table.add_row(name, f"{events:,}", *cells)
    return table


def _gain(found: Remembered, place: Place, against: Place, task: str, measure: str) -> str:
    for gain in found.gains:
        if (gain.place, gain.against, gain.task, gain.measure) == (place, against, task, measure):
            return gain_text({"gain": gain.found.value, "low": gain.found.low, "high": gain.found.high})
    return ""


def _word(met: bool) -> str:
    return "met   " if met else "MISSED"
