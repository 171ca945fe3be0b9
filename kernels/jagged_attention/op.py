"""The one function of jagged attention: arguments checked, then handed to the registered operators.

Shape letters: B rows (examples), Tq and Tk queries and keys of all rows, S seeds, H heads, E floats per head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.jagged_attention.operators import activation_attention, refuse_order, softmax_attention

ACTIVATIONS = ("softmax", "silu", "gelu", "relu2")
DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}
WIDEST_ON_GPU = 256


def jagged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor | None,
    k_offsets: Tensor,
    *,
    causal: bool = False,
    window: int = 0,
    activation: str = "softmax",
    scale: float | None = None,
) -> Tensor:
    """Attention within each row of a jagged batch.

    Self-attention: q, k, v and both offsets of the same rows. Cross-attention: queries and keys of different
    lengths. Pooling by seeds (Set Transformer's PMA): `q_offsets=None`, the same S queries for every row. A window
    makes self-attention cost rows' lengths times the window. Under torch.autocast the inputs are cast, as those of
    torch's own attention are.

    The activation phi of a score s weighs the value: softmax over the keys that a query sees; SiLU(s) / L with L
    the keys of the row, seen or not; GELU(s), with the error function; ReLU(s)².

    Args:
        q: [Tq, H, E] in float32, bfloat16, on the CPU also float64, on a GPU also float16; with `q_offsets=None`
            seeds [S, H, E]. On a GPU E is at most 256.
        k, v: [Tk, H, E], dtype of q.
        q_offsets: int64 [B + 1]; queries of row b lie at q_offsets[b]:q_offsets[b + 1]. None for seeds.
        k_offsets: int64 [B + 1], the same for keys and values.
        causal: a query sees the keys up to its own place only; rows must have as many queries as keys.
        window: the query at place i sees the keys j with |i - j| < window only, of these the causal ones; rows must
            have as many queries as keys. 0 for all.
        activation: phi, one of `softmax`, `silu`, `gelu`, `relu2`.
        scale: of the scores; 1 / sqrt(E) unless given.

    On a GPU the values of the offsets are not read, so as not to wait for it: they are trusted to ascend, tokens
    that lie in no row give zeros, and causal and windowed attention take one tensor for both offsets.

    Returns:
        [Tq, H, E], or [B, S, H, E] for seeds. A row without keys gives zeros, and sends zero gradient. Repeats are
        equal bit by bit.

    Raises:
        ValueError: an unknown activation, or shapes, dtypes, devices or offsets that do not fit.

    Source: Vaswani et al. 2017 (3.2.1); backward from the log-sum-exp as in FlashAttention-2 (Dao 2023, 3.1);
    SiLU / L in place of the softmax from HSTU (Zhai et al. 2024, 3.2), ReLU² from Primer (So et al. 2021, 4); any
    activation, short keys and seeds in one operator as Meta's GDPA.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got '{activation}', allowed: {', '.join(ACTIVATIONS)}")
    _check_device(q, k, v, q_offsets, k_offsets)
    device = q.device.type
    if torch.is_autocast_enabled(device):
        q, k, v = (
            x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(device)) for x in (q, k, v)
        )
    _check(q, k, v, window)
    _check_offsets("k_offsets", k_offsets)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if q_offsets is None:
        refuse_order(causal, window, "seeds have no place among the keys")
        return _pool(q, k, v, k_offsets, activation, scale)
    _check_offsets("q_offsets", q_offsets)
    if q_offsets.shape != k_offsets.shape:
        raise ValueError(
            f"q_offsets: got shape {tuple(q_offsets.shape)}, allowed: k_offsets' {tuple(k_offsets.shape)}"
        )
    return _attend(q, k, v, q_offsets, k_offsets, activation, causal, window, scale)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    k_offsets: Tensor,
    activation: str,
    causal: bool,
    window: int,
    scale: float,
) -> Tensor:
    if activation == "softmax":
        return softmax_attention(q, k, v, q_offsets, k_offsets, causal, window, scale)[0]
    return activation_attention(q, k, v, q_offsets, k_offsets, activation, causal, window, scale)


def _pool(seeds: Tensor, k: Tensor, v: Tensor, k_offsets: Tensor, activation: str, scale: float) -> Tensor:
    rows = k_offsets.numel() - 1
    q_offsets = torch.arange(rows + 1, device=k_offsets.device) * len(seeds)
    q = seeds.expand(rows, *seeds.shape).flatten(0, 1)
    out = _attend(q, k, v, q_offsets, k_offsets, activation, False, 0, scale)
    return out.unflatten(0, (rows, len(seeds)))


def _check_device(q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, k_offsets: Tensor) -> None:
    if q.device.type not in DTYPES:
        raise ValueError(f"q: got device '{q.device}', allowed: {' or '.join(map(repr, DTYPES))}")
    named = {
        "k": k,
        "v": v,
        "q_offsets": k_offsets if q_offsets is None else q_offsets,
        "k_offsets": k_offsets,
    }
    for name, x in named.items():
        if x.device != q.device:
            raise ValueError(f"{name}: got device '{x.device}', allowed: that of q, '{q.device}'")


def _check(q: Tensor, k: Tensor, v: Tensor, window: int) -> None:
    if q.dim() != 3 or k.dim() != 3 or q.shape[1:] != k.shape[1:] or k.shape != v.shape:
        raise ValueError(
            f"q, k, v: got shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}, "
            "allowed: [Tq, H, E], [Tk, H, E], [Tk, H, E]"
        )
    allowed = DTYPES[q.device.type]
    if q.dtype not in allowed or k.dtype != q.dtype or v.dtype != q.dtype:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ValueError(
            f"q, k, v: got {q.dtype}, {k.dtype}, {v.dtype}, allowed: one of {names} for all three on '{q.device.type}'"
        )
    if q.device.type == "cuda" and q.shape[2] > WIDEST_ON_GPU:
        raise ValueError(
            f"q: got {q.shape[2]} floats per head, allowed: {WIDEST_ON_GPU} at most on a GPU; use more heads"
        )
    if window < 0:
        raise ValueError(f"window: got {window}, allowed: 0 (all keys) or more")


def _check_offsets(name: str, offsets: Tensor) -> None:
    if offsets.dim() != 1 or offsets.numel() == 0:
        raise ValueError(f"{name}: got shape {tuple(offsets.shape)}, allowed: [B + 1]")
    if offsets.dtype != torch.int64:
        raise ValueError(f"{name}: got {offsets.dtype}, allowed: int64")
