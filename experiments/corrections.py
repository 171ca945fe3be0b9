"""What learnt targets did to the teacher, day by day, as a run's trainings report it. Free of torch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from experiments.curves import Band, band
from experiments.recorded import RecordedRun

_SIZE, _SHIFT, _TARGET, _TEACHER = "correction", "shift_", "target_loss", "teacher_loss"


@dataclass(frozen=True)
class Correction:
    """One channel of one cell; days on which the teacher said something.

    Attributes:
        channel: `adapter`, or another one that learns its target.
        size: day to the mean distance of target and teacher, in logits, tasks pooled.
        shifts: task to day to their mean difference, target less teacher, in logits.
        gain: day to the teacher's loss less the target's on matured labels; above 0: the correction is right.
    """

    channel: str
    size: dict[int, Band]
    shifts: dict[str, dict[int, Band]]
    gain: dict[int, Band]


def corrections(run: RecordedRun, cell_id: str) -> list[Correction]:
    """Those of a cell, in the order of its channels; empty where no channel learns its target."""
    of_day: dict[int, list[dict[str, float]]] = defaultdict(list)
    for (cell, _), report in run.trainings.items():
        for day in report["days"] if cell == cell_id else ():
            of_day[day["day"]].append(day["means"])
    names = dict.fromkeys(name for seeds in of_day.values() for means in seeds for name in means)
    channels = [name.removesuffix(f"/{_SIZE}") for name in names if name.endswith(f"/{_SIZE}")]
    return [_correction(channel, dict(sorted(of_day.items())), list(names)) for channel in channels]


def _correction(channel: str, of_day: dict[int, list[dict[str, float]]], names: list[str]) -> Correction:
    start = f"{channel}/{_SHIFT}"
    # Before the first snapshot of the teacher nothing is corrected, and every mean is 0.
    spoken = {day: s for day, s in of_day.items() if any(means[f"{channel}/{_TEACHER}"] for means in s)}

    def by_day(name: str, less: str = "") -> dict[int, Band]:
        taken = {
            day: band(m[name] - (m[less] if less else 0.0) for m in seeds) for day, seeds in spoken.items()
        }
        return {day: found for day, found in taken.items() if found}

    return Correction(
        channel,
        by_day(f"{channel}/{_SIZE}"),
        {name.removeprefix(start): by_day(name) for name in names if name.startswith(start)},
        by_day(f"{channel}/{_TEACHER}", less=f"{channel}/{_TARGET}"),
    )
