"""All libraries on the same work, one after another on one thread, in rounds.

    python -m experiments.benchmarks.peers --environments ENVIRONMENTS --rows ROWS [--save]

In each round every library makes one pass with the round's learning rate, so that a busy moment of the
machine meets neighbours alike and ratios are taken within a round. Nothing is printed while the tests of
what is timed fail.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from experiments.benchmarks.peers.environments import interpreter
from experiments.benchmarks.peers.table import (
    COLUMNS,
    DENSE,
    OURS,
    OURS_LOOP,
    PLAIN,
    Run,
    bars,
    lines,
    rows,
    show,
)
from experiments.benchmarks.peers.work import LEARNING_RATES, MODELS
from experiments.benchmarks.results import save
from experiments.pipeline.environment import ROOT

TESTED = ("tests/students", "tests/kernels/test_embedding.py", "tests/distill/test_stream.py")
# Name in the table to runner; a peer's runner needs the peer's own interpreter.
RUNNERS = {
    OURS: "ours",
    OURS_LOOP: "ours_loop",
    DENSE: "dense_alone",
    PLAIN: "plain_loop",
    "torch_rechub": "peer_torch_rechub",
    "deepctr_torch": "peer_deepctr_torch",
    "fuxictr": "peer_fuxictr",
    "recbole": "peer_recbole",
}
# RecBole's DIN reads items only (peer_recbole.py).
LACKS = {("recbole", "din")}
# Above this the wall time shows that other processes shared the core.
BUSY = 1.2


def run_all(settings: argparse.Namespace) -> list[Run]:
    """Rounds of one pass of each library on each model."""
    names = [name for name in RUNNERS if name in (OURS, *settings.libraries)]
    runs = []
    for turn, model in product(range(settings.rounds), settings.models):
        for name in names:
            if (name, model) not in LACKS:
                runs.append(run_one(name, model, turn, settings))
                _say(runs[-1])
    return runs


def run_one(name: str, model: str, turn: int, settings: argparse.Namespace) -> Run:
    """One pass in a process of its own."""
    module = RUNNERS[name]
    python = (
        interpreter(settings.environments.absolute(), name) if module.startswith("peer_") else sys.executable
    )
    rate = LEARNING_RATES[turn % len(LEARNING_RATES)]
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [str(python), "-m", f"experiments.benchmarks.peers.{module}", "--model", model]
        command += ["--rows", str(settings.rows.absolute()), "--learning-rate", str(rate)]
        command += ["--folder", folder, "--result", str(result)]
        environment = os.environ | one_thread | {"PYTHONPATH": str(ROOT)}
        # RecBole leaves folders where it is started.
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} on {model} failed:\n{done.stderr[-3000:]}")
        measured = json.loads(result.read_text())
    return Run(model=model, library=name, round=turn, learning_rate=rate, **measured)


def tests_pass() -> bool:
    """True when the tests of what is timed are green."""
    command = [sys.executable, "-m", "pytest", "-q", *TESTED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-3000:], file=sys.stderr)
    return done.returncode == 0


def _say(run: Run) -> None:
    busy = run.wall_seconds / run.seconds
    note = f"  (machine busy: {busy:.1f} s of wall time per s)" if busy > BUSY else ""
    print(
        f"{run.model} {run.library}: {run.examples / run.seconds:.0f} examples/s{note}",
        file=sys.stderr,
        flush=True,
    )


def _machine() -> str:
    cores = os.cpu_count()
    return f"{platform.machine()}_{cores}cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=Path, required=True, help="folder made by environments.py")
    parser.add_argument("--rows", type=Path, required=True, help="folder made by prepare.py")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--libraries", nargs="*", choices=list(RUNNERS), default=list(RUNNERS))
    parser.add_argument("--rounds", type=int, default=len(LEARNING_RATES), help="passes of each library")
    parser.add_argument("--save", action="store_true", help="write experiments/results/peers_<machine>.csv")
    parser.add_argument("--machine", default=_machine(), help="its name in the file's name")
    settings = parser.parse_args()
    if not tests_pass():
        raise SystemExit("The tests of what is timed fail: nothing is measured.")
    table = lines(run_all(settings))
    print(show(table))
    for model in settings.models:
        print(*bars(table, model), sep="\n")
    if settings.save:
        print(save(f"peers_{settings.machine}", COLUMNS, rows(table)))


if __name__ == "__main__":
    main()
