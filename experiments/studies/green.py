"""No measurement of code that is broken. Free of torch."""

from __future__ import annotations

import os
import subprocess
import sys

from experiments.pipeline.environment import ROOT

TESTED = ("tests/teachers", "tests/kernels")


def tests_pass() -> bool:
    """True when the tests of teachers and kernels are green; what fails is printed to standard error."""
    command = [sys.executable, "-m", "pytest", "-q", *TESTED]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-1000:], file=sys.stderr)
    return done.returncode == 0
