"""What no bank can go below: its matrix products from memory instead of from the cache, and its optimiser.

    python -m experiments.benchmarks.bank_floor [--members 64] [--networks 64-32 256-128]

The ceiling of `experiments.benchmarks.bank` counts one student's products, whose operands stay in the second cache. The
same products of N students are read from further away. Of one step, on one thread, lower quartiles of processor time:

products  one student's matrix products, forward and backward, times members: the ceiling's
batched   the same of all members, one batched product for each layer and operand
adam      the fused Adam of all members, a tensor a member
share     products over batched and adam: the most of the ceiling that a bank can reach were its look-ups free
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

INPUTS, DENSE, TASKS, FIRST_ORDER = 261, 5, 2, 3
"""Of the benchmark's DeepFM: 16 fields of 16 numbers and 5 dense features; what its heads read beside the MLP."""


def layers_of(network: str) -> list[tuple[int, int]]:
    """Width of the input and of the output of each linear layer: MLP, serving head, auxiliary head, first order."""
    widths = [INPUTS, *map(int, network.split("-"))]
    head = (widths[-1] + FIRST_ORDER, TASKS)
    return [*zip(widths, widths[1:], strict=False), head, head, (DENSE, TASKS)]


def operands(members: int, batch: int, network: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, weights and gradients of the outputs of each layer."""
    return [
        (torch.randn(members, batch, v), torch.randn(members, w, v), torch.randn(members, batch, w))
        for v, w in layers_of(network)
    ]


def one_by_one(layers: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """The first member's products, as often as there are members."""
    for x, weight, gradient in layers:
        for _ in range(len(x)):
            _ = x[0] @ weight[0].t(), gradient[0] @ weight[0], gradient[0].t() @ x[0]


def batched(layers: list[tuple[Tensor, Tensor, Tensor]], out: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """All members' products: forward through all layers, then backward."""
    for (x, weight, _), (_, _, y) in zip(layers, out, strict=True):
        torch.bmm(x, weight.transpose(1, 2), out=y)
    for (x, weight, gradient), (of_x, of_weight, _) in zip(layers[::-1], out[::-1], strict=True):
        torch.bmm(gradient.transpose(1, 2), x, out=of_weight)
        torch.bmm(gradient, weight, out=of_x)


def adam(members: int, network: str) -> Callable[[], object]:
    """One step of all members."""
    size = sum((v + 1) * w for v, w in layers_of(network))
    parameters = [torch.nn.Parameter(torch.randn(size)) for _ in range(members)]
    for parameter in parameters:
        parameter.grad = torch.randn(size)
    optimizer = torch.optim.Adam(parameters, fused=True)
    return optimizer.step


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Lower quartile of the processor time."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * sorted(times)[repeats // 4]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=64, help="students")
    parser.add_argument("--networks", nargs="*", default=["64-32", "256-128"], help="widths of the MLP")
    parser.add_argument("--batch", type=int, default=128, help="examples per step")
    parser.add_argument("--repeats", type=int, default=20, help="runs per figure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("".join(f"{name:>12}" for name in ("network", "products", "batched", "adam", "share")))
    for network in options.networks:
        layers = operands(options.members, options.batch, network)
        out = operands(options.members, options.batch, network)
        together = milliseconds(partial(batched, layers, out), options.repeats)
        alone = milliseconds(partial(one_by_one, layers), options.repeats)
        step = milliseconds(adam(options.members, network), options.repeats)
        values = f"{alone:12.1f}{together:12.1f}{step:12.1f}{alone / (together + step):12.2f}"
        print(f"{network:>12}{values}", flush=True)


if __name__ == "__main__":
    main()
