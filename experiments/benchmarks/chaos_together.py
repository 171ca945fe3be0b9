"""Processes that torchrun holds together, killed one by one and all at once: the rest of `chaos`.

    torchrun --nproc-per-node 2 -m experiments run EXPERIMENT

trains the teacher by both processes, writes its log and deals the students out, from an empty folder to the scores.
`moment` is a share of the files that the undisturbed command writes, since most of its time goes into imports. Beside
what `identical` says of the others, nobody of the disturbed command may outlive the repeated one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle, islice

import numpy as np

from experiments.benchmarks.chaos import STOPS, Chaos, Row
from experiments.benchmarks.victims import SECONDS, SOONER, alive, content, family, put_back, rows
from experiments.pipeline.environment import ROOT

PROCESSES = 2
ONE = "SIGKILL of one"
"""Of any process below torchrun."""
RESTARTED = "SIGKILL, restarted"
"""Of one of the two, with `--max-restarts 1`: torchrun itself repeats."""
TORCHRUN = "SIGKILL of torchrun"
"""Whose processes have to stop by themselves."""
ALL = "SIGKILL of all"
"""At once, as when the machine goes."""
STOP = "SIGTERM"
"""To torchrun, which stops the others."""


class Together:
    """Trials of one tiny experiment by two processes.

    Args:
        chaos: has the folder, and the data prepared.
        random: which process is killed, and how long after a file has appeared.
    """

    def __init__(self, chaos: Chaos, random: np.random.Generator):
        self.file, self.folder = chaos.experiment("together", bank=1), chaos.folder / "together"
        self.after, self.log = chaos.folder / "stages" / "together", chaos.log
        self._random, self._files = random, 0

    def in_peace(self) -> None:
        """Run the experiment undisturbed, and keep what it leaves."""
        torchrun = self._started()
        self._files = self._written(torchrun)
        if _code(torchrun):
            raise RuntimeError(f"torchrun failed undisturbed:\n{self.log.read_text()}")
        put_back(self.folder, self.after)

    def disturbed(self, fault: str, share: float) -> Row:
        """Run the experiment anew, disturb it, and repeat the command, unless torchrun does.

        Args:
            fault: ONE, RESTARTED, TORCHRUN, ALL or STOP.
            share: of the files; less where fewer are seen this time, and the command has ended by then.
        """
        while True:
            shutil.rmtree(self.folder)
            torchrun = self._started(restarts=int(fault == RESTARTED))
            self._written(torchrun, most=max(1, round(share * self._files)))
            time.sleep(self._random.uniform(0, 0.2))
            members = family(torchrun.pid)
            if torchrun.poll() is None:
                break
            share *= SOONER
        self._disturb(fault, members)
        code = _code(torchrun)
        if fault != RESTARTED:
            code = _code(self._started())
        wrong = self._wrong(code, [member for member in members if alive(member)])
        if wrong:
            print(f"torchrun, {fault} at {share:.3f}: {wrong}\n{self.log.read_text()}", file=sys.stderr)
        return Row("torchrun", fault, f"{share:.3f}", not wrong, *rows(self.folder, self.after))

    def _wrong(self, code: int, left: list[int]) -> str:
        """What is not as it was undisturbed; "" for nothing."""
        found, expected = content(self.folder), content(self.after)
        differing = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        problems = {"exit code": code, "other files": differing, "processes left": left}
        return ", ".join(f"{name} {value}" for name, value in problems.items() if value)

    def _disturb(self, fault: str, members: list[int]) -> None:
        torchrun, *below = members
        chosen = {ONE: below, RESTARTED: below[:PROCESSES]}.get(fault, [torchrun])
        victims = members if fault == ALL else [int(self._random.choice(chosen))]
        for victim in victims:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(victim, signal.SIGTERM if fault == STOP else signal.SIGKILL)

    def _started(self, restarts: int = 0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(PROCESSES), "--max-restarts", str(restarts)]
        command += ["-m", "experiments", "run", "--quiet", str(self.file)]
        with self.log.open("w") as printed:
            return subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=printed)

    def _written(self, torchrun: subprocess.Popen[bytes], most: float = float("inf")) -> int:
        """Wait until so many files were seen in the folder, or until the command has ended; how many they were."""
        seen: set[str] = set()
        while len(seen) < most and torchrun.poll() is None:
            seen.update(os.path.join(at, name) for at, _, names in os.walk(self.folder) for name in names)
            time.sleep(0.01)
        return len(seen)


def kills_together(chaos: Chaos, count: int, seed: int = 0) -> Iterator[Row]:
    """SIGKILL at `count` random moments, the ways to kill in turn, and SIGTERM at STOPS."""
    random = np.random.default_rng(seed)
    together = Together(chaos, random)
    together.in_peace()
    faults = islice(cycle((ONE, RESTARTED, TORCHRUN, ALL)), count)
    for fault in (*faults, *[STOP] * STOPS):
        yield together.disturbed(fault, float(random.uniform()))


def _code(torchrun: subprocess.Popen[bytes]) -> int:
    """Wait for the end; the exit code.

    Raises:
        TimeoutExpired: it hangs.
    """
    try:
        return torchrun.wait(SECONDS)
    except subprocess.TimeoutExpired:
        for member in family(torchrun.pid):
            os.kill(member, signal.SIGKILL)
        raise
