"""How long one training step of each student takes on one thread, and where the time goes.

    python -m experiments.benchmarks.student_step [--batch 512] [--history 50] [--repeats 200] [--profile din]

Columns, in ms of processor time (other processes do not count): `look-up` (ids to embeddings), `dense` (loss
forward and backward from the embeddings on), `update` (backward of the look-up with the fused AdaGrad),
`adam` (dense parameters), `step` (all of it, measured as a whole), `alone` (dense and adam only, measured as
a whole: the same network on given embeddings), and `alone / step`, the share of the dense network's own rate
    that the whole student keeps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import label_loss
from experiments.benchmarks.synthetic import make_batch, make_schema
from kernels.embedding import Embedded, dense_parameters
from students import dcn_v2, deepfm, din, dlrm
from students.base import Student
from students.config import DCNv2Config, DeepFMConfig, DINConfig, DLRMConfig

# Each takes the longest history.
STUDENTS: dict[str, Callable[[int], tuple[Callable[..., Student], Any]]] = {
    "dlrm": lambda history: (dlrm.build, DLRMConfig()),
    "dlrm rich": lambda history: (dlrm.build, DLRMConfig(history_length=history)),
    "deepfm": lambda history: (deepfm.build, DeepFMConfig()),
    "deepfm rich": lambda history: (deepfm.build, DeepFMConfig(history_length=history)),
    "dcn_v2": lambda history: (dcn_v2.build, DCNv2Config()),
    "dcn_v2 full rank": lambda history: (dcn_v2.build, DCNv2Config(cross_rank=0)),
    "din": lambda history: (din.build, DINConfig(history_length=history)),
    "din softmax": lambda history: (din.build, DINConfig(history_length=history, softmax=True)),
    "din dice": lambda history: (din.build, DINConfig(history_length=history, activation="dice")),
}
COLUMNS = ("look-up", "dense", "update", "adam", "step", "alone")


@dataclass
class Step:
    """One student's training step, whole and in pieces, over a few batches in turn."""

    student: Student
    batches: list[Batch]

    def __post_init__(self) -> None:
        self.adam = torch.optim.Adam(dense_parameters(self.student), lr=1e-3, fused=True)
        self.look_up = self.student.look_up
        self.given = [_leaf(self.look_up(batch)) for batch in self.batches]
        self.turn = 0

    def pieces(self) -> dict[str, Callable[[], float]]:
        """Column to a function that runs it once and returns its seconds."""
        return {
            "look-up": lambda: _seconds(lambda: self.look_up(self.batches[self._next()])),
            "dense": lambda: _seconds(lambda: self._dense(self._next())),
            "update": self._update,
            "adam": lambda: _seconds(self.adam.step),
            "step": lambda: _seconds(self._whole),
            "alone": lambda: _seconds(self._alone),
        }

    def _next(self) -> int:
        self.turn = (self.turn + 1) % len(self.batches)
        return self.turn

    def _dense(self, place: int) -> None:
        self.student.look_up = lambda batch: self.given[place]  # type: ignore[method-assign]
        self._loss(self.batches[place]).backward()

    def _update(self) -> float:
        embedded = self.look_up(self.batches[self._next()])
        outputs = [part for part in (embedded.features, embedded.events) if part is not None]
        gradients = [torch.full_like(part, 1e-6) for part in outputs]
        return _seconds(lambda: torch.autograd.backward(outputs, gradients))

    def _whole(self) -> None:
        self.adam.zero_grad()
        self.student.look_up = self.look_up  # type: ignore[method-assign]
        self._loss(self.batches[self._next()]).backward()
        self.adam.step()

    def _alone(self) -> None:
        self.adam.zero_grad()
        self._dense(self._next())
        self.adam.step()

    def _loss(self, batch: Batch) -> Tensor:
        return label_loss(self.student(batch).logits, batch.labels, batch.label_mask)


def measure(step: Step, repeats: int) -> dict[str, float]:
    """Lower quartiles in ms; the pieces take turns, so that a busy moment of the machine meets all."""
    pieces = step.pieces()
    seconds: dict[str, list[float]] = {name: [] for name in pieces}
    for _ in range(repeats):
        for name, run in pieces.items():
            seconds[name].append(run())
    return {name: 1e3 * sorted(times)[len(times) // 4] for name, times in seconds.items()}


def measure_mlp(width: int, batch: int, repeats: int) -> float:
    """Lower quartile in ms of a step of the plain MLP 256-128 with one head: what every student contains at
    least."""
    layers = [nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1)]
    network = nn.Sequential(*layers)
    adam = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    x, labels = torch.randn(batch, width, requires_grad=True), torch.zeros(batch, 1)
    mask = torch.ones(batch, 1, dtype=torch.bool)

    def run() -> None:
        adam.zero_grad()
        label_loss(network(x), labels, mask).backward()
        adam.step()

    return 1e3 * sorted(_seconds(run) for _ in range(repeats))[repeats // 4]


def make_students(settings: argparse.Namespace) -> tuple[list[Batch], dict[str, Student]]:
    """Batches and students of the measurement."""
    schema = make_schema([10_000] * settings.features, dense=settings.dense)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(settings.history + 1, (8, settings.batch), generator=generator)
    batches = [make_batch(schema, row, seed) for seed, row in enumerate(lengths)]
    common: dict[str, Any] = {
        "schema": schema,
        "tasks": schema.task_names,
        "features": tuple(schema.sparse),
        "dense_features": schema.dense,
        "seed": 0,
        "table_learning_rate": 0.02,
    }
    chosen = {name: STUDENTS[name](settings.history) for name in settings.only or STUDENTS}
    return batches, {name: build(config, **common) for name, (build, config) in chosen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=512, help="examples per step")
    parser.add_argument("--features", type=int, default=20, help="sparse features")
    parser.add_argument("--dense", type=int, default=4, help="dense features")
    parser.add_argument("--history", type=int, default=50, help="longest history; lengths are uniform from 0")
    parser.add_argument("--repeats", type=int, default=200, help="steps of each piece")
    parser.add_argument("--only", nargs="*", choices=list(STUDENTS), help="students; all by default")
    parser.add_argument("--profile", action="store_true", help="print the operations of a step instead")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    batches, students = make_students(settings)
    if settings.profile:
        for student in students.values():
            _profile(Step(student, batches))
        return
    mlp = measure_mlp(settings.features * 16 + settings.dense, settings.batch, settings.repeats)
    print(f"plain MLP alone: {mlp:.2f} ms a step")
    print(f"{'student':18}", *(f"{column:>8}" for column in COLUMNS), "alone / step")
    for name, student in students.items():
        times = measure(Step(student, batches), settings.repeats)
        kept = times["alone"] / times["step"]
        print(f"{name:18}", *(f"{times[column]:8.2f}" for column in COLUMNS), f"{kept:.2f}")


def _leaf(embedded: Embedded) -> Embedded:
    events = None if embedded.events is None else embedded.events.detach().clone().requires_grad_()
    return Embedded(embedded.features.detach().clone().requires_grad_(), events)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _profile(step: Step) -> None:
    for _ in range(5):
        step._whole()
    with torch.profiler.profile() as profiler:
        for _ in range(20):
            step._whole()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))


if __name__ == "__main__":
    main()
