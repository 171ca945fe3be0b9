"""Ways to compute the parts of a student that torch has several of: forward and backward, one thread.

    python -m experiments.benchmarks.student_parts [--events 25000] [--width 32]

Lower quartiles in ms of processor time. The students take the first line of each group.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kernels.segments import Segments, pool
from students.blocks import DotInteraction, PReLU

EXAMPLES, FIELDS, DIM = 512, 21, 16


def sums(events: int, width: int) -> dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Sums over each example's events."""
    lengths = torch.full((EXAMPLES,), events // EXAMPLES)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    segments = Segments.of(offsets, int(offsets[-1]))
    x = torch.randn(int(offsets[-1]), width, requires_grad=True)
    return {
        "segment sum: embedding_bag": (x, lambda x: pool(x, segments)),
        "segment sum: index_add": (x, lambda x: x.new_zeros(EXAMPLES, width).index_add(0, segments.rows, x)),
        "segment sum: segment_reduce": (x, lambda x: torch.segment_reduce(x, "sum", offsets=offsets, axis=0)),
    }


def activations(events: int, width: int) -> dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """PReLU with a slope for each channel."""
    x = torch.randn(events, width, requires_grad=True)
    return {"prelu: ours": (x, PReLU(width)), "prelu: torch": (x, nn.PReLU(width))}


def pairs() -> dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Dot products of all pairs of fields."""
    x = torch.randn(EXAMPLES, FIELDS, DIM, requires_grad=True)
    row, column = torch.tril_indices(FIELDS, FIELDS, -1)
    return {
        "pairs: ours": (x, DotInteraction(FIELDS)),
        "pairs: index": (x, lambda x: torch.bmm(x, x.transpose(1, 2))[:, row, column]),
    }


def measure(x: Tensor, run: Callable[[Tensor], Tensor], repeats: int = 60) -> float:
    """Lower quartile of forward and backward, ms."""
    gradient = torch.ones_like(run(x))
    times = []
    for _ in range(repeats):
        x.grad = None
        start = time.process_time()
        run(x).backward(gradient)
        times.append(time.process_time() - start)
    return 1e3 * sorted(times)[repeats // 4]


def main() -> None:
    parser = argparse.ArgumentParser(description="Ways to compute the parts of a student.")
    parser.add_argument("--events", type=int, default=25_000, help="events of a batch")
    parser.add_argument("--width", type=int, default=32, help="numbers per event")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    sizes = settings.events, settings.width
    for name, (x, run) in (sums(*sizes) | activations(*sizes) | pairs()).items():
        print(f"{name:30} {measure(x, run):8.3f}")


if __name__ == "__main__":
    main()
