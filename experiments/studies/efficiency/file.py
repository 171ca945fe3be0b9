"""The efficiency study's file and its ladder. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from distill.checks import check_at_least
from distill.findings import Findings
from experiments.studies.files import ComparisonFile, read_study


@dataclass(frozen=True)
class Rung:
    """One way to train, which has all that the rung below has.

    Attributes:
        name: of the table.
        operators: padded, histories with padding to the batch's longest and stock operators; stock, real lengths and
            stock operators; kernels, those of this project.
        balanced: rows are dealt to batches and processes so that all have about as many events.
        precision: fp32 or bf16.
        compile: the model around its tables by torch.compile.
        processes: each with batches of its own; dense gradients are averaged.
    """

    name: str
    operators: Literal["padded", "stock", "kernels"] = "padded"
    balanced: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    processes: int = 1


@dataclass
class Efficiency(ComparisonFile):
    """An efficiency file.

    Attributes:
        day: of the data set, whose first rows are trained on again and again.
        batch_size: examples of a step of each process.
        batches: steps of each rung in a round.
        rounds: passes over the ladder, after one that is not timed; each gives one value of every factor.
        starts: how often each kind of start is measured; 0 for never.
        processes: of the last rung; 1 leaves it out, as a machine with one GPU does.
        compile: have a rung with torch.compile.
    """

    seeds: list[int] = field(default_factory=lambda: [0])
    day: int = 8
    batch_size: int = 64
    batches: int = 4
    rounds: int = 5
    starts: int = 2
    processes: int = 2
    compile: bool = True


def ladder(compile: bool, processes: int) -> list[Rung]:
    """The rungs from padded, eager training upwards, each changing one thing.

    Args:
        compile: have a rung with torch.compile.
        processes: of the last rung; 1 for no such rung.
    """
    rungs = [Rung("padded")]
    steps = [
        ("jagged", {"operators": "stock"}),
        ("kernels", {"operators": "kernels"}),
        ("balanced", {"balanced": True}),
        ("precision", {"precision": "bf16"}),
        *([("compile", {"compile": True})] if compile else []),
        *([("processes", {"processes": processes})] if processes > 1 else []),
    ]
    for name, change in steps:
        rungs.append(replace(rungs[-1], name=name, **change))  # type: ignore[arg-type]
    return rungs


def read_efficiency(path: Path) -> Efficiency:
    """Read an efficiency file.

    Raises:
        ConfigErrors: everything that is wrong with it.
    """
    return read_study(path, Efficiency, _check)


def _check(study: Efficiency, findings: Findings) -> None:
    for key, least in (
        ("day", 1),
        ("batch_size", 1),
        ("batches", 1),
        ("rounds", 2),
        ("starts", 0),
        ("processes", 1),
    ):
        check_at_least(getattr(study, key), least, (key,), findings)
    if len(study.seeds) > 1:
        findings.add(("seeds",), str(study.seeds), "one seed: rounds, not seeds, are what is repeated")
