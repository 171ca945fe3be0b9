"""Costs of all variants and lengths, in rounds, each measurement in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from distill.files import atomic_path
from distill.progress import Progress
from experiments.pipeline.environment import ROOT, git_commit
from experiments.studies.history.cost import Request, Result

_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
Place = tuple[str, int]
"""Variant, number of events."""


@dataclass(frozen=True)
class Cost:
    """What long histories cost.

    Attributes:
        ms_per_batch: median processor time of a training step, ms.
        ms_per_1000_events: what 1,000 more events per example add to it, since the next shorter history; None for the
            shortest.
        peak_mib: largest resident memory, MiB.
    """

    ms_per_batch: float
    ms_per_1000_events: float | None
    peak_mib: float


def costs(
    requests: Mapping[Place, Request], rounds: int, folder: Path, progress: Progress
) -> dict[Place, Cost]:
    """Measure what the folder does not hold.

    Args:
        requests: what to measure, each variant's histories rising.
        rounds: passes over all of them.
        folder: keeps every measurement, for this commit of the code.
        progress: shown to the user.

    Raises:
        RuntimeError: a measurement failed.
    """
    results: dict[Place, list[Result]] = {place: [] for place in requests}
    with progress.task("costs", total=rounds * len(requests), unit="measurements") as bar:
        for number in range(rounds):
            for place, request in requests.items():
                name = f"{place[0]}-{place[1]}-{number}.json"
                results[place].append(_kept(request, folder / name))
                bar.advance(1)
    return summarised(results)


def summarised(results: Mapping[Place, Sequence[Result]]) -> dict[Place, Cost]:
    """Medians, peaks, and what was added since the next shorter history of the same variant."""
    found: dict[Place, Cost] = {}
    shorter: dict[str, tuple[int, float]] = {}
    for (name, events), of in results.items():
        ms = median(step for result in of for step in result.ms)
        added = None
        if name in shorter:
            before, cost = shorter[name]
            added = 1000 * (ms - cost) / (events - before)
        shorter[name] = events, ms
        found[name, events] = Cost(ms, added, max(result.peak_mib for result in of))
    return found


def _kept(request: Request, path: Path) -> Result:
    """The measurement in a file, or a new one; another request or another commit makes it again."""
    made = {"request": asdict(request), "git_commit": git_commit()}
    if path.is_file():
        content = json.loads(path.read_text())
        if {name: content[name] for name in made} == made:
            return Result(**content["result"])
    result = _apart(request)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**made, "result": asdict(result)}, indent=1) + "\n")
    return result


def _apart(request: Request) -> Result:
    """Measure in a process of its own, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(asdict(request)))
        command = [sys.executable, "-m", "experiments.studies.history.cost", str(asked), str(answer)]
        environment = os.environ | _ONE_THREAD | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            why = "killed, probably for memory" if done.returncode < 0 else done.stderr.strip()[-2000:]
            raise RuntimeError(f"{request.events} events: the measurement failed: {why}")
        return Result(**json.loads(answer.read_text()))
