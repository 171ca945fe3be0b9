"""Cases of the operators without a softmax: Wukong's interactions, feed-forward blocks, matrices of examples.

The compiled route comes from the definition (`kernels/<op>/reference.py`), which is also the eager one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.kernels.attention import draw_lengths
from experiments.benchmarks.kernels.case import COMPILED, Case, Function, both_directions, compiled, leaves
from kernels.jagged_mix import jagged_mix
from kernels.norm_ffn import norm_ffn
from kernels.norm_ffn.reference import norm_ffn as norm_ffn_reference
from kernels.wukong_fm import wukong_fm
from kernels.wukong_fm.reference import wukong_fm as wukong_fm_reference

EAGER = "eager"
INTERACTIONS = {
    "cpu": [(512, 24, 16, 8, 8), (2048, 32, 32, 16, 16)],
    "cuda": [(4096, 128, 128, 32, 64)],
    "dry": [(3, 5, 8, 2, 2)],
}
"""B examples, N embeddings of width D, rank K, L compressed embeddings."""
BLOCKS = {
    "cpu": [(20_000, 32, 64), (20_000, 64, 256)],
    "cuda": [(204_800, 64, 256)],
    "dry": [(7, 8, 16)],
}
"""T rows, width D, F hidden units."""
MIXES = {"cpu": [(512, 50, 500, 4, 32)], "cuda": [(1024, 512, 2048, 8, 64)], "dry": [(6, 12, 40, 2, 8)]}
"""B rows, mean and largest length, M numbers of a token, D of the result."""


def interactions(device: str, dtype: torch.dtype, dry: bool) -> Iterator[Case]:
    """Factorization machine, linear compression and the norm of its pairs; arguments as of `attention`."""
    for batch, n, width, rank, linear in INTERACTIONS["dry" if dry else device]:
        sizes = [(batch, n, width), (n, rank), (linear, n), (n * rank,), (n * rank,)]
        inputs = leaves(*sizes, dtype=dtype, device=device)
        name = f"B {batch} N {n} D {width} K {rank} L {linear} normed"
        ours, plain = (partial(_fm, function) for function in (wukong_fm, wukong_fm_reference))
        yield from both_directions("wukong_fm", name, inputs, ours, _stock(plain, dry))


def blocks(device: str, dtype: torch.dtype, dry: bool) -> Iterator[Case]:
    """Layer norm, feed-forward block and residual; arguments as of `attention`."""
    for rows, width, hidden in BLOCKS["dry" if dry else device]:
        sizes = [(rows, width), (width,), (width,), (hidden, width), (hidden,), (width, hidden), (width,)]
        inputs = leaves(*sizes, dtype=dtype, device=device, scale=0.5)
        name = f"T {rows} D {width} F {hidden} gelu"
        yield from both_directions("norm_ffn", name, inputs, norm_ffn, _stock(norm_ffn_reference, dry))


def mixes(device: str, dtype: torch.dtype, dry: bool) -> Iterator[Case]:
    """A matrix of each row's own, applied to its tokens; arguments as of `attention`."""
    for count, mean, most, given, width in MIXES["dry" if dry else device]:
        lengths = draw_lengths(count, mean, most).to(device)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        sizes = [(int(lengths.sum()), given), (count, given, width)]
        inputs = leaves(*sizes, dtype=dtype, device=device)
        name = f"B {count} mean {mean} max {most} M {given} D {width}"
        eager = partial(_each_token, lengths=lengths)
        yield from both_directions(
            "jagged_mix", name, inputs, partial(jagged_mix, offsets=offsets), _stock(eager, dry)
        )


def _stock(eager: Function, dry: bool) -> dict[str, Function]:
    return {EAGER: eager} if dry else {EAGER: eager, COMPILED: compiled(eager)}


def _fm(
    function: Callable[..., Any], x: Tensor, y: Tensor, w: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    return function(x, y, w, norm_weight=weight, norm_bias=bias)


def _each_token(values: Tensor, matrices: Tensor, lengths: Tensor) -> Tensor:
    of_token = matrices.repeat_interleave(lengths, dim=0, output_size=len(values))
    return torch.einsum("tm,tmd->td", values, of_token)
