"""What is timed: one operator at one shape and direction, by every route that computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import kernels.jagged_attention.flops
import kernels.jagged_mix.flops
import kernels.norm_ffn.flops
import kernels.wukong_fm.flops  # noqa: F401  they register their formulas

OURS = "ours"
COMPILED = "torch.compile"
FORWARD, BOTH, UPDATE = "forward", "forward+backward", "forward+backward+update"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}
"""Largest difference between two routes, as a share of the largest number of ours."""

T = TypeVar("T")
Function = Callable[..., Tensor | tuple[Tensor, ...]]
Step = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """One operator at one shape, direction and dtype.

    Attributes:
        op: its folder in `kernels`.
        shape, direction, dtype: of the table.
        routes: name to one step, ours first; what a step returns is what the routes must agree on.
        flops: model FLOPs of a step (`kernels/<op>/flops.py`), on real lengths.
        bytes: of the tensors that a step must read and write, each once a pass.
    """

    op: str
    shape: str
    direction: str
    dtype: torch.dtype
    routes: Mapping[str, Step]
    flops: int
    bytes: int

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def disagreement(self) -> str | None:
        """Which route computes something else than ours, and by how much; None when none does."""
        ours = self.routes[OURS]()
        for name, step in self.routes.items():
            found = attempt(step)
            for number, (mine, theirs) in enumerate(
                zip(ours, found, strict=True) if found is not None else ()
            ):
                error, most = (theirs - mine).abs().max().item(), mine.abs().max().item()
                if not error <= TOLERANCE[self.dtype] * most:
                    return f"{self.op}, {self.shape}, {self.direction}: {name}: result {number} is off by {error:.2g}"
        return None


def both_directions(
    op: str,
    shape: str,
    inputs: Sequence[Tensor],
    ours: Function,
    stock: Mapping[str, Function],
    directions: Sequence[str] = (FORWARD, BOTH),
) -> Iterator[Case]:
    """Cases of a differentiable operator.

    Args:
        op, shape: see `Case`.
        inputs: leaves, all of one dtype, from which every route computes the operator's outputs.
        ours: the operator.
        stock: name to how it is done without it.
        directions: which to time.
    """
    outputs = _tuple(ours(*inputs))
    generator = torch.Generator(outputs[0].device).manual_seed(1)
    gradients = [
        torch.randn(out.shape, dtype=out.dtype, device=out.device, generator=generator) for out in outputs
    ]
    forward_bytes = _size([*inputs, *outputs])
    for direction in directions:
        make = _forward if direction == FORWARD else _backward
        routes = {
            name: make(function, inputs, gradients) for name, function in ({OURS: ours} | dict(stock)).items()
        }
        # Going back, inputs and outputs' gradients are read and inputs' gradients written.
        moved = forward_bytes + (0 if direction == FORWARD else 2 * _size(inputs) + _size(outputs))
        yield Case(op, shape, direction, inputs[0].dtype, routes, _flops(routes[OURS]), moved)


def attempt(step: Callable[[], T]) -> T | None:
    """What a step returns; None where the device's memory is too small for it, which is a result, not a fault."""
    try:
        return step()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def compiled(function: Function) -> Function:
    """The function by torch.compile for fixed shapes, compiled when it is first called."""
    return torch.compile(function, dynamic=False)


def leaves(*shapes: Sequence[int], dtype: torch.dtype, device: str, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Random leaves."""
    return tuple(
        (scale * torch.randn(tuple(shape), device=device)).to(dtype).requires_grad_() for shape in shapes
    )


def _forward(function: Function, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Step:
    @torch.no_grad()
    def step() -> tuple[Tensor, ...]:
        return _tuple(function(*inputs))

    return step


def _backward(function: Function, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Step:
    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(_tuple(function(*inputs)), inputs, gradients)

    return step


def _flops(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
