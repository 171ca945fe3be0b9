"""Processes of the efficiency study: started, waited for, their results read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from experiments.pipeline.environment import ROOT
from experiments.studies.efficiency.start import STEPS, Start
from experiments.studies.efficiency.work import Request, Result

_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
_PACKAGE = "experiments.studies.efficiency"
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def measure_ladder(request: Request, caches: Path) -> Result:
    """Measure all rungs, each process on one thread.

    Args:
        request: what; its meeting place is made here.
        caches: folder of what torch.compile keeps.

    Raises:
        RuntimeError: a process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(asdict(replace(request, meeting=f"{folder}/meeting"))))
        processes = [
            _launch("work", [str(asked), str(answer), str(number)], caches)
            for number in range(request.processes)
        ]
        _wait_for(processes)
        return Result(**json.loads(answer.read_text()))


def measure_starts(request: Request, times: int, folder: Path) -> dict[str, list[Start]]:
    """Measure starts: eager; and compiled, with empty caches and with those that this left.

    Args:
        request: what is started, one process.
        times: how often each.
        folder: gets the caches.

    Returns:
        Kind to its starts, `compiled, cold` and `compiled, cached` if the ladder compiles.
    """
    eager = replace(request, compile=False, batches=STEPS, processes=1)
    found: dict[str, list[Start]] = {"eager": [], "compiled, cold": [], "compiled, cached": []}
    for number in range(times):
        caches = folder / str(number)
        found["eager"].append(_start(eager, caches))
        if request.compile:
            compiled = replace(eager, compile=True)
            found["compiled, cold"].append(_start(compiled, caches))
            found["compiled, cached"].append(_start(compiled, caches))
    return {kind: starts for kind, starts in found.items() if starts}


def _start(request: Request, caches: Path) -> Start:
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(asdict(request)))
        _wait_for([_launch("start", [str(asked), str(answer), repr(time.time())], caches)])
        return Start(**json.loads(answer.read_text()))


def _launch(module: str, arguments: list[str], caches: Path) -> subprocess.Popen[str]:
    environment: Mapping[str, str] = {
        **os.environ,
        **_ONE_THREAD,
        **{name: str(caches.resolve() / name.lower()) for name in _CACHES},
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", f"{_PACKAGE}.{module}", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _wait_for(processes: list[subprocess.Popen[str]]) -> None:
    """Until all have ended; when one fails, the others, who would wait for it, are ended."""
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
    for process in processes:
        _, said = process.communicate()
        if process.returncode > 0:
            raise RuntimeError(f"the measurement failed: {said.strip()[-2000:]}")
    if any(process.returncode for process in processes):
        raise RuntimeError("the measurement was killed, probably for memory")
