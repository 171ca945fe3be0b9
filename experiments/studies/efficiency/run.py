"""`distill study efficiency`: the ladder measured, its factors with intervals, the tables written."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from distill.dataset import prepare
from distill.progress import Progress
from experiments.benchmarks.kernels.clock import machine
from experiments.pipeline.status import RunStatus
from experiments.studies.efficiency.file import Efficiency, ladder
from experiments.studies.efficiency.launch import measure_ladder, measure_starts
from experiments.studies.efficiency.start import Start
from experiments.studies.efficiency.work import Request, Result
from experiments.studies.files import hash_of, load_all, overrides
from experiments.studies.picture import seed_interval
from experiments.studies.tables import beside, replace_rows

COLUMNS = (
    *("data", "rung", "devices", "precision", "flops_per_s", "mfu"),
    *("factor", "factor_low", "factor_high", "product", "product_low", "product_high", "rounds"),
)
START_COLUMNS = ("data", "kind", "start_s", "imports_s", "build_s", "first_steps_s", "compile_s", "times")


@dataclass(frozen=True)
class Factor:
    """How many times as fast; a geometric mean over rounds.

    Attributes:
        value: the factor.
        low, high: ends of its 95 % interval (t over the rounds' logarithms).
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Step:
    """A rung of the ladder, measured.

    Attributes:
        rung: its name.
        devices: processes.
        precision: of the products.
        flops_per_s: model FLOPs on real lengths per second, all devices, geometric mean over rounds.
        mfu: these over devices and the peak in the ladder's last precision; None when the peak is not known.
        factor: over the rung below; None for the lowest.
        product: over the lowest rung; None for that.
    """

    rung: str
    devices: int
    precision: str
    flops_per_s: float
    mfu: float | None
    factor: Factor | None
    product: Factor | None


@dataclass(frozen=True)
class Climbed:
    """What an efficiency study has found.

    Attributes:
        study: its file.
        device: `cpu` or `cuda`.
        steps: the ladder, from the lowest rung.
        result: what it was made of.
        starts: kind to its starts.
        tables: that were written.
    """

    study: Efficiency
    device: str
    steps: list[Step]
    result: Result
    starts: Mapping[str, Sequence[Start]]
    tables: list[Path]


def climb(study: Efficiency, path: Path, settings: Sequence[str], progress: Progress) -> Climbed:
    """Measure everything and write the tables.

    Args:
        study: the file's content.
        path: the file, for messages.
        settings: `--set` arguments of the experiment, as on the command line.
        progress: shown to the user.

    Raises:
        UserError: settings or data that do not fit.
        RuntimeError: a measurement failed.
    """
    common = [*overrides(study.set), *settings]
    loaded = load_all(study, path, {study.data: common})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    request = Request(
        *(study.experiment, common, study.day, study.batch_size, study.batches, study.rounds),
        *(study.processes, study.compile, device, ""),
    )
    with RunStatus(Path(study.output), hash_of(loaded), None, goes_on=False) as step:
        step("data")
        prepare(loaded[study.data].config.data, progress)
        with tempfile.TemporaryDirectory(dir=study.output) as caches:
            step("starts")
            with progress.task("starts"):
                starts = measure_starts(request, study.starts, Path(caches))
            step("ladder")
            with progress.task("ladder"):
                # The first start's caches: a rung that compiles need not wait for it again.
                result = measure_ladder(request, Path(caches) / "0")
    steps = steps_of(study, result)
    return Climbed(study, device, steps, result, starts, _write(study, machine(device), steps, starts))


def steps_of(study: Efficiency, result: Result) -> list[Step]:
    """The ladder with its factors, paired by round."""
    rungs = ladder(study.compile, study.processes)
    found, of = [], result.flops_per_s
    for below, rung in zip([None, *rungs], rungs, strict=False):
        speed = math.exp(fmean(map(math.log, of[rung.name])))
        mfu = None if result.peak is None else speed / rung.processes / result.peak
        factor = product = None
        if below is not None:
            factor = factor_of(of[rung.name], of[below.name])
            product = factor_of(of[rung.name], of[rungs[0].name])
        found.append(Step(rung.name, rung.processes, rung.precision, speed, mfu, factor, product))
    return found


def factor_of(fast: Sequence[float], slow: Sequence[float]) -> Factor:
    """How many times as fast one is as the other.

    Args:
        fast, slow: speeds of the same rounds, at least two.
    """
    logs = [math.log(mine / theirs) for mine, theirs in zip(fast, slow, strict=True)]
    low, high = seed_interval(logs)
    assert low is not None and high is not None, "a single round has no interval"
    return Factor(*(math.exp(end) for end in (fmean(logs), low, high)))


def _write(
    study: Efficiency, name: str, steps: Sequence[Step], starts: Mapping[str, Sequence[Start]]
) -> list[Path]:
    table = beside(Path(study.table), name)
    replace_rows(table, COLUMNS, [_row(study, step) for step in steps], ("data",))
    if not starts:
        return [table]
    of_starts = beside(table, "starts")
    rows = [_start_row(study, kind, of) for kind, of in starts.items()]
    replace_rows(of_starts, START_COLUMNS, rows, ("data",))
    return [table, of_starts]


def _row(study: Efficiency, step: Step) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"data": study.data, "rounds": study.rounds}
    row |= {name: getattr(step, name) for name in ("rung", "devices", "precision", "flops_per_s", "mfu")}
    for name in ("factor", "product"):
        found = getattr(step, name)
        if found is not None:
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row


def _start_row(study: Efficiency, kind: str, starts: Sequence[Start]) -> dict[str, Any]:
    means = {name: fmean(getattr(start, name) for start in starts) for name in START_COLUMNS[2:-1]}
    return {"data": study.data, "kind": kind, "times": len(starts), **means}
