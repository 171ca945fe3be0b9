"""How long a training takes to start: from launching a process to the end of its first steps.

    python -m experiments.studies.efficiency.start REQUEST.json RESULT.json LAUNCHED

Cold, torch.compile finds nothing in its caches; cached, what an earlier process left there. The prepared data set and
Python's compiled modules are there in both.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

STEPS = 3
"""The first batches, of differing lengths: what depends on them is compiled at most twice."""


@dataclass(frozen=True)
class Start:
    """Seconds of one start.

    Attributes:
        imports_s: from launch until all modules are there.
        build_s: data set opened, model built.
        first_steps_s: the first STEPS steps, with what they compile.
        steady_s: as many steps after them.
    """

    imports_s: float
    build_s: float
    first_steps_s: float
    steady_s: float

    @property
    def start_s(self) -> float:
        """From launch until nothing is left to compile."""
        return self.imports_s + self.build_s + self.first_steps_s

    @property
    def compile_s(self) -> float:
        """What the first steps take beyond steady ones."""
        return self.first_steps_s - self.steady_s


def main(arguments: Sequence[str]) -> int:
    """Request, result to write, time of the launch (seconds since the epoch)."""
    asked, answer, launched = arguments
    import torch

    from experiments.studies.efficiency.file import ladder
    from experiments.studies.efficiency.work import Request, Workshop

    marks = [float(launched), time.time()]
    torch.set_num_threads(1)
    request = Request(**json.loads(Path(asked).read_text()))
    trainee = Workshop(request, 0).trainee(ladder(request.compile, 1)[-1])
    marks.append(time.time())
    for _ in range(2):
        for number in range(STEPS):
            trainee.step(number % len(trainee.batches))
        marks.append(time.time())
    seconds = (later - earlier for earlier, later in zip(marks, marks[1:], strict=False))
    Path(answer).write_text(json.dumps(asdict(Start(*seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
