"""Batches that every path of jagged attention must get right, and how the tests of each path run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.jagged_attention.reference import jagged_attention as reference

HEADS, WIDTH = 2, 12  # a width that is no power of two
ACTIVATIONS = ["softmax", "silu", "gelu", "relu2"]


@dataclass(frozen=True)
class Case:
    """Lengths of rows, and which keys a query sees."""

    q_lengths: list[int]
    k_lengths: list[int]
    causal: bool = False
    window: int = 0

    @property
    def options(self) -> dict[str, Any]:
        return {"causal": self.causal, "window": self.window}

    def offsets(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """Of queries and keys; one tensor where the rows are the same."""
        queries = offsets_of(self.q_lengths).to(device)
        return queries, queries if self.q_lengths == self.k_lengths else offsets_of(self.k_lengths).to(device)

    def draw(self, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
        """q, k and v."""
        tokens = [sum(self.q_lengths), sum(self.k_lengths), sum(self.k_lengths)]
        return [draw(n, dtype, seed=seed, width=WIDTH).to(device) for seed, n in enumerate(tokens)]


# None, one, several rows of a kind, off the powers of two, more than one tile of any kernel.
ROWS, OTHER_ROWS = [0, 1, 7, 40, 0, 7, 70, 3, 0], [2, 0, 7, 40, 0, 5, 33, 19, 1]
CASES = [
    pytest.param(Case(ROWS, ROWS), id="self"),
    pytest.param(Case(ROWS, ROWS, causal=True), id="causal"),
    pytest.param(Case(ROWS, ROWS, causal=True, window=9), id="causal window"),
    pytest.param(Case(ROWS, ROWS, window=35), id="window"),
    pytest.param(Case(ROWS, ROWS, causal=True, window=10_000), id="window wider than rows"),
    pytest.param(Case(ROWS, OTHER_ROWS), id="cross"),
    pytest.param(Case([5, 5, 5], [5, 5, 5], causal=True), id="equal rows"),
    pytest.param(Case([0, 2], [3, 0]), id="no row with both"),
    pytest.param(Case([0, 0], [0, 0]), id="empty rows only"),
    pytest.param(Case([], []), id="empty batch"),
]


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that an operator asks for and does not write holds NaN, not a lucky zero."""
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()])


def draw(
    tokens: int, dtype: torch.dtype = torch.float64, seed: int = 0, heads: int = HEADS, width: int = WIDTH
) -> Tensor:
    """Standard normal [tokens, heads, width]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, heads, width, dtype=torch.float64, generator=generator).to(dtype)


def run(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], *args: Tensor | None, **options: Any
) -> list[Tensor]:
    """Output, and the gradients of a fixed random function of it (zero for what it does not reach)."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves, *args, **options)
    generator = torch.Generator().manual_seed(7)
    out.backward(
        torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.dtype).to(out.device)
    )
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [out.detach(), *gradients]


def assert_as_exact(got: list[Tensor], plain: list[Tensor], exact: list[Tensor], slack: float) -> None:
    """Each errs at most thrice as much as plain PyTorch of its precision does, both against the exact one."""
    for name, value, usual, truth in zip(["out", "dq", "dk", "dv"], got, plain, exact, strict=True):
        assert value.dtype == usual.dtype and value.shape == truth.shape, name
        if truth.numel():
            allowed = 3 * (usual.double() - truth).abs().max() + slack
            assert (value.double() - truth).abs().max() <= allowed, name


def assert_right(
    function: Callable[..., Tensor], inputs: list[Tensor], *offsets: Tensor, **options: Any
) -> None:
    """As exact as the reference, or nearly, in the same precision on the same device."""
    exact = run(reference, [x.double() for x in inputs], *offsets, **options)
    plain = run(reference, inputs, *offsets, **options)
    got = run(function, inputs, *offsets, **options)
    assert_as_exact(got, plain, exact, slack=torch.finfo(inputs[0].dtype).eps)
