"""One measurement in a process of its own: training steps on long histories, their processor time and peak memory.

    python -m experiments.studies.history.cost REQUEST.json RESULT.json

The batch is synthetic, in the form of the data set's: every example has all the events. The step is the real module's,
without Lightning's loop: forward, losses, backward with the tables' fused update, dense optimiser.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from distill.batch import Batch
from distill.load_config import load_config
from distill.module import DistillModule
from distill.protocols import Output
from distill.schema import FeatureSchema
from experiments.benchmarks.synthetic import make_batch
from experiments.pipeline.build import build_model

_STATUS = Path("/proc/self/status")
_PEAK = "VmHWM:"


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        experiment: experiment file; its teacher is measured.
        arguments: `--set` arguments.
        schema: the data set's schema.yaml.
        events: of every example.
        batch_size: examples of a step.
        steps: timed, after one that is not.
    """

    experiment: str
    arguments: list[str]
    schema: str
    events: int
    batch_size: int
    steps: int


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        ms: processor time of each step, ms, one thread.
        peak_mib: largest resident memory of the process so far, MiB.
    """

    ms: list[float]
    peak_mib: float


class _Nowhere:
    """A recorder for a module that predicts nothing."""

    def add(self, batch: Batch, output: Output) -> None:
        raise AssertionError("nothing is predicted here")


def measure(request: Request) -> Result:
    """Do the steps in this process, on the thread it computes with."""
    config = load_config(request.experiment, request.arguments).config.teacher
    assert config is not None
    schema = FeatureSchema.load(request.schema)
    model = build_model("teacher", config, config.optimizer, schema, 0, Path(request.experiment).parent)
    module = DistillModule(model, {}, config.optimizer, _Nowhere(), config.compute)
    optimizer = module.configure_optimizers()
    batch = make_batch(schema, [request.events] * request.batch_size, seed=0, teacher=False)
    module.train()

    def step() -> float:
        started = time.process_time()
        optimizer.zero_grad()
        module.backward(module.training_step(batch, 0))
        module.on_before_optimizer_step(optimizer)
        optimizer.step()
        return 1e3 * (time.process_time() - started)

    step()
    return Result([step() for _ in range(request.steps)], peak_mib())


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB.

    The kernel's own count of this program: `resource.getrusage` would begin with the memory of the process that
    started it.
    """
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(_PEAK))
    return int(line.split()[1]) / 1024


def main(arguments: Sequence[str]) -> int:
    """Request, result to write."""
    import experiments.catalog  # noqa: F401  fills the registries

    request, result = arguments
    torch.set_num_threads(1)
    found = measure(Request(**json.loads(Path(request).read_text())))
    Path(result).write_text(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
