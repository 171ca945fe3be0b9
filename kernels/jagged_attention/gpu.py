"""GPU path of jagged attention: tile lists, tile sizes and launches of the Triton kernels.

Nothing waits for the device: the offsets' values stay there. Written for Ampere and Hopper.

Shape letters: B rows, Tq and Tk queries and keys of all rows, H heads, E floats per head, M queries and N keys of a
tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.jagged_attention.gpu_kernels import backward_keys_kernel, backward_queries_kernel, forward_kernel
from kernels.jagged_attention.tiles import tiles


@dataclass(frozen=True)
class Blocks:
    """Sizes of a launch: M queries and N keys of a tile, and Triton's warps and pipeline stages."""

    M: int
    N: int
    num_warps: int
    num_stages: int


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor | None]:
    """Attention; tokens that no row holds give zeros.

    Args:
        q: float32, float16 or bfloat16 [Tq, H, E], E at most 256.
        k, v: [Tk, H, E].
        q_offsets, k_offsets: int64 [B + 1], on the same device.
        activation, causal, window, scale: as of `jagged_attention`.

    Returns:
        Output [Tq, H, E], and for softmax the log-sum-exp of the scores, float32 [Tq, H], -inf without a key.
    """
    q, k, v = _readable(q), _readable(k), _readable(v)
    softmax = activation == "softmax"
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[:2], dtype=torch.float32) if softmax else None
    blocks = forward_blocks(q.shape[2], q.dtype, len(q) // max(1, len(q_offsets) - 1))
    todo = tiles(q_offsets, len(q), k_offsets, len(k), blocks.M, last_first=causal)
    forward_kernel[_grid(todo, q)](
        q, k, v, out, lse, todo, q.shape[1], min(window, len(k)), scale,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
        **constants(q, blocks, activation, causal, window),
    )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    lse: Tensor | None,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of the output; `out` and `lse` of softmax as forward returned them."""
    grad, q, k, v = _readable(grad), _readable(q), _readable(k), _readable(v)
    dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    delta = None if lse is None else torch.empty_like(lse)
    rows, window = max(1, len(q_offsets) - 1), min(window, len(k))
    strides = [*grad.stride()[:2], *q.stride()[:2], *k.stride()[:2], *v.stride()[:2]]
    blocks = backward_queries_blocks(q.shape[2], q.dtype, len(q) // rows)
    todo = tiles(q_offsets, len(q), k_offsets, len(k), blocks.M, last_first=causal)
    backward_queries_kernel[_grid(todo, q)](
        grad, q, k, v, out, lse, delta, dq, todo, q.shape[1], window, scale, *strides,
        **constants(q, blocks, activation, causal, window),
    )  # fmt: skip
    blocks = backward_keys_blocks(q.shape[2], q.dtype, len(k) // rows)
    todo = tiles(k_offsets, len(k), q_offsets, len(q), blocks.N, last_first=False)
    backward_keys_kernel[_grid(todo, q)](
        grad, q, k, v, lse, delta, dk, dv, todo, q.shape[1], window, scale, *strides,
        **constants(q, blocks, activation, causal, window),
    )  # fmt: skip
    return dq, dk, dv


def forward_blocks(width: int, dtype: torch.dtype, length: int) -> Blocks:
    """For heads of `width` floats and rows of `length` queries in the mean."""
    if dtype == torch.float32:
        return Blocks(_exact_tile(width), _exact_tile(width), 4, 2)
    if width > 128:
        return Blocks(_fit(length, 64), 32, 8, 2)
    tile = _fit(length, 128)
    return Blocks(tile, 64, 8 if tile == 128 else 4, 3)


def backward_queries_blocks(width: int, dtype: torch.dtype, length: int) -> Blocks:
    """For heads of `width` floats and rows of `length` queries in the mean."""
    if dtype == torch.float32:
        return Blocks(_exact_tile(width), _exact_tile(width), 4, 2)
    if width > 128:
        return Blocks(_fit(length, 32), 32, 8, 2)
    return Blocks(_fit(length, 64), 64 if width <= 32 else 32, 4, 2)


def backward_keys_blocks(width: int, dtype: torch.dtype, length: int) -> Blocks:
    """For heads of `width` floats and rows of `length` keys in the mean."""
    if dtype == torch.float32:
        return Blocks(_exact_tile(width), _exact_tile(width), 4, 2)
    if width > 128:
        return Blocks(32, _fit(length, 32), 8, 2)
    return Blocks(32, _fit(length, 64), 4 if width <= 64 else 8, 2)


def _fit(length: int, most: int) -> int:
    """Tile for rows of a length: half of a tile of 128 would stay empty where rows have 50 tokens."""
    return min(max(16, triton.next_power_of_2(length)), most)


def _exact_tile(width: int) -> int:
    """Tile of float32, whose exact products are multiplied out by every thread instead of by the tensor cores."""
    return 32 if width <= 32 else 16


def _readable(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _grid(todo: Tensor, q: Tensor) -> tuple[int]:
    """One program for every tile and head; the heads of a tile lie side by side and share the cache."""
    return (len(todo) * q.shape[1],)


def constants(q: Tensor, blocks: Blocks, activation: str, causal: bool, window: int) -> dict[str, object]:
    return {
        "E": q.shape[2],
        "BLOCK_E": max(16, triton.next_power_of_2(q.shape[2])),
        "ACTIVATION": activation,
        "CAUSAL": causal,
        "WINDOW": window > 0,
        **vars(blocks),
    }
