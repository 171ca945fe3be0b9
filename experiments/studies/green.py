"""No measurement of code that is broken. Free of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from experiments.pipeline.environment import ROOT

TESTED = ("tests/teachers", "tests/kernels")


def tests_pass(tested: Sequence[str] | None = None) -> bool:
    """True when tests are green; what fails is printed to standard error.

    Args:
        tested: files and folders of tests; those of teachers and kernels unless given.
    """
    command = [sys.executable, "-m", "pytest", "-q", *(TESTED if tested is None else tested)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-1000:], file=sys.stderr)
    return done.returncode == 0
