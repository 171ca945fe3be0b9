"""One process of the measurement: every rung, round after round, on batches that are in memory.

    python -m experiments.studies.efficiency.work REQUEST.json RESULT.json PROCESS

Process 0 does all rungs and writes the result; the others do the last one with it. A step is the real module's, without
Lightning's loop: forward, losses, backward with the tables' fused update, dense optimiser. With several processes dense
gradients are averaged by one blocking all-reduce (gloo) a step; every process keeps tables of its own, whose updates
are not exchanged. Reading data is no part of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import experiments.catalog  # noqa: F401  fills the registries
from distill.batch import Batch
from distill.config import ComputeConfig, TeacherConfig
from distill.dataset import DataSet, prepare
from distill.flops import count
from distill.load_config import load_config
from distill.module import DistillModule
from distill.peak import peak_flops
from distill.progress import NoProgress
from distill.protocols import Output
from distill.stream import DayStream
from experiments.pipeline.build import build_model
from experiments.studies.efficiency.balance import balanced_batches
from experiments.studies.efficiency.file import Rung, ladder
from experiments.studies.efficiency.operators import Padded, replaced, stock
from kernels.embedding import EmbeddingTables, dense_parameters

TOLERANCE = 1e-3
"""Largest difference of a tap between two rungs in float32, as a share of its largest number."""
BASELINE = Rung("padded, compiled", compile=True)
"""No rung: what the MFU on a GPU is compared with."""
_WAIT = timedelta(minutes=10)


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        experiment: experiment file; its teacher is measured.
        arguments: `--set` arguments.
        day, batch_size, batches, rounds, processes, compile: as in the study file.
        device: `cpu` or `cuda`.
        meeting: a file that does not exist yet, by which processes find each other.
    """

    experiment: str
    arguments: list[str]
    day: int
    batch_size: int
    batches: int
    rounds: int
    processes: int
    compile: bool
    device: str
    meeting: str


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        flops_per_s: of each rung, model FLOPs on real lengths per second of wall time in every round, all processes.
        peak: FLOPs per second of a matrix product in the ladder's last precision, one process; None when not known.
        events: mean events of an example.
        padding: share of events that padding adds to them.
    """

    flops_per_s: dict[str, list[float]]
    peak: float | None
    events: float
    padding: float


class Nowhere:
    """A recorder for a module that predicts nothing."""

    def add(self, batch: Batch, output: Output) -> None:
        raise AssertionError("nothing is predicted here")


class Processes:
    """The processes of a measurement; the default group is each process's own, so that its tables are.

    Args:
        request: says how many.
        number: of this one.
    """

    def __init__(self, request: Request, number: int):
        self.number, self.count = number, request.processes
        store = dist.FileStore(request.meeting, self.count)
        # Its methods are not part of its stub.
        self._group: Any = dist.ProcessGroupGloo(store, number, self.count, _WAIT)

    def meet(self) -> None:
        """Wait for all."""
        self._group.barrier().wait()

    def total(self, value: float) -> float:
        """Sum over processes."""
        tensor = torch.tensor([value], dtype=torch.float64)
        self._group.allreduce([tensor]).wait()
        return tensor.item()

    def average(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """The mean of all processes' gradients in the place of each."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) / self.count
        self._group.allreduce([flat]).wait()
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])


@dataclass
class Trainee:
    """A teacher on one rung, with its batches.

    Attributes:
        rung: how it trains.
        module: model and settings.
        batches: what it trains on, for padded ones with padding.
        flops: model FLOPs of all batches, forward and backward, on real lengths.
    """

    rung: Rung
    module: DistillModule
    batches: list[Batch]
    flops: float
    padded: list[Padded] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = self.module.configure_optimizers()
        self.dense = [p for p in dense_parameters(self.module.model) if p.requires_grad]
        self.module.train()
        if self.rung.operators == "padded":
            self.padded = [Padded.of(batch) for batch in self.batches]
            self.batches = [padded.batch for padded in self.padded]

    def seconds(self, processes: Processes | None) -> float:
        """Wall time of one step on every batch; with processes, of all of them together."""
        device = self.batches[0].example_id.device
        if processes is not None:
            processes.meet()
        _wait(device)
        began = time.perf_counter()
        for number in range(len(self.batches)):
            self.step(number, processes)
        _wait(device)
        if processes is not None:
            processes.meet()
        return time.perf_counter() - began

    def step(self, number: int, processes: Processes | None = None) -> None:
        """One training step."""
        self.optimizer.zero_grad()
        with self.operators(number):
            self.module.backward(self.module.training_step(self.batches[number], number))
        if processes is not None:
            processes.average(self.dense)
        self.module.on_before_optimizer_step(self.optimizer)
        self.optimizer.step()

    def operators(self, number: int) -> AbstractContextManager[None]:
        """A context in which the teacher finds the rung's operators."""
        if self.rung.operators == "padded":
            return replaced(self.padded[number].substitutes)
        return replaced(stock()) if self.rung.operators == "stock" else nullcontext()

    @torch.no_grad()
    def taps(self) -> dict[str, torch.Tensor]:
        """What the model says of the first batch, inside too."""
        self.module.eval()  # no dropout
        with self.operators(0):
            output = self.module.model(self.batches[0])
        self.module.train()
        return dict(output.taps) | {"logits": output.logits}


class Workshop:
    """Data and teachers of a measurement.

    Args:
        request: what to measure.
        process: number of this process, which takes every `processes`-th batch.
    """

    def __init__(self, request: Request, process: int):
        loaded = load_config(request.experiment, request.arguments)
        assert loaded.config.teacher is not None
        self.request, self.process = request, process
        self.teacher: TeacherConfig = loaded.config.teacher
        self.base = Path(request.experiment).parent
        self.data: DataSet = prepare(loaded.config.data, NoProgress())
        self.device = torch.device(request.device)
        batches = {balanced: self._batches(balanced) for balanced in (False, True)}
        counter = self.build(Rung("counter")).model
        self._batches_of = batches
        self._flops = {
            balanced: float(sum(flops.forward + flops.backward for flops in (count(counter, b) for b in of)))
            for balanced, of in batches.items()
        }

    def build(self, rung: Rung) -> DistillModule:
        """The teacher from the same initial values for every rung, its gates opened a little."""
        tables = partial(EmbeddingTables, device=self.device)
        with replaced({EmbeddingTables: tables}):
            model = build_model(
                "teacher", self.teacher, self.teacher.optimizer, self.data.schema, 0, self.base
            )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in dense_parameters(model):
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        compute = ComputeConfig(precision=rung.precision, compile=rung.compile)
        return DistillModule(model.to(self.device), {}, self.teacher.optimizer, Nowhere(), compute)

    def trainee(self, rung: Rung) -> Trainee:
        """A teacher and the batches of this process."""
        return Trainee(rung, self.build(rung), self._batches_of[rung.balanced], self._flops[rung.balanced])

    def lengths(self) -> tuple[float, float]:
        """Mean events of an example, and the share that padding adds."""
        of = [batch.history.offsets.diff() for batch in self._batches_of[False] if batch.history is not None]
        events = sum(int(lengths.sum()) for lengths in of)
        places = sum(len(lengths) * int(lengths.max()) for lengths in of)
        return events / sum(len(lengths) for lengths in of), places / max(events, 1) - 1

    def _batches(self, balanced: bool) -> list[Batch]:
        asked, teacher, schema = self.request, self.teacher, self.data.schema
        stream = DayStream(
            self.data,
            asked.day,
            asked.batch_size,
            tuple(teacher.features) or tuple(schema.sparse),
            tuple(teacher.dense) or schema.dense,
            history_length=teacher.options["history_length"],
            content=tuple(teacher.content),
        )
        count_ = asked.batches * asked.processes
        if len(stream) <= count_:
            raise ValueError(
                f"batches: got {asked.batches} for {asked.processes} processes, allowed: less than the {len(stream)} "
                f"batches of day {asked.day}"
            )
        if balanced:
            batches = balanced_batches(stream, count_)
        else:
            batches = [batch for batch, _ in zip(stream, range(count_), strict=False)]
        return [batch.to(self.device) for batch in batches[self.process :: asked.processes]]


def refuse_disagreement(trainees: Sequence[Trainee]) -> None:
    """Rungs that differ in operators alone compute the same.

    Raises:
        ArithmeticError: they do not, such as when the teacher has a form that padding is not made for.
    """
    by_operators = {trainee.rung.operators: trainee for trainee in trainees[::-1]}
    expected = by_operators.pop("kernels").taps()
    for name, trainee in by_operators.items():
        for tap, found in trainee.taps().items():
            error, most = (found - expected[tap]).abs().max().item(), expected[tap].abs().max().item()
            if not error <= TOLERANCE * most:
                raise ArithmeticError(
                    f"rung '{trainee.rung.name}': tap {tap} is off by {error:.2g} of {most:.2g}: the study has no "
                    f"{name} form of this teacher"
                )


def measure(request: Request, process: int) -> Result | None:
    """Do this process's part; the result is process 0's."""
    rungs = ladder(request.compile, request.processes)
    workshop = Workshop(request, process)
    processes = Processes(request, process) if request.processes > 1 else None
    mine = rungs if process == 0 else rungs[-1:]
    trainees = [workshop.trainee(rung) for rung in mine]
    if process == 0:
        refuse_disagreement(trainees)
        if request.device == "cuda" and request.compile:
            trainees.insert(0, workshop.trainee(BASELINE))
    totals = {trainee.rung.name: trainee.flops for trainee in trainees}
    if processes is not None:
        totals[rungs[-1].name] = processes.total(trainees[-1].flops)
    found: dict[str, list[float]] = {name: [] for name in totals}
    for round_ in range(-1, request.rounds):
        for trainee in trainees:
            shared = processes if trainee.rung.processes > 1 else None
            seconds = trainee.seconds(shared)
            if round_ >= 0:
                found[trainee.rung.name].append(totals[trainee.rung.name] / seconds)
    if process:
        return None
    return Result(found, peak_flops(workshop.device, rungs[-1].precision), *workshop.lengths())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(arguments: Sequence[str]) -> int:
    """Request, result to write, number of this process."""
    asked, answer, process = arguments
    torch.set_num_threads(1)
    result = measure(Request(**json.loads(Path(asked).read_text())), int(process))
    if result is not None:
        Path(answer).write_text(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
