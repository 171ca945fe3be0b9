"""The definition of the feed-forward block in plain PyTorch. Every fast path equals this.

Shape letters: T rows, D width, F hidden units.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
}


def norm_ffn(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    activation: str = "gelu",
    gated: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """x + W2 a + b2, with h = W1 LN(x) + b1 and a = act(h); gated, h = [g, u] and a = act(g) * u.

    Arguments and result as in `kernels.norm_ffn.norm_ffn`.
    """
    hidden = functional.linear(functional.layer_norm(x, x.shape[1:], norm_weight, norm_bias, eps), w1, b1)
    act = ACTIVATIONS[activation]
    if gated:
        gate, value = hidden.chunk(2, dim=1)
        hidden = act(gate) * value
    else:
        hidden = act(hidden)
    return x + functional.linear(hidden, w2, b2)
