"""A table that every process holds whole: data parallel, for few rows that every batch reads.

torchrec's data-parallel tables have dense gradients, and its fused optimiser leaves them out: somebody else has to
step them. This one steps itself in the backward pass, as the fused tables do, so that no optimiser has to know of it.

Shape letters: E rows, D embedding dim, N bags, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torchrec import KeyedJaggedTensor

from kernels.embedding.keys import beside


class ReplicatedTable:
    """One copy of a table; row-wise AdaGrad on the mean of all processes' gradients keeps the copies equal.

    No `nn.Module`, as `ShardedTables` is none.

    Args:
        rows, dim: E and D.
        learning_rate, eps: of the row-wise AdaGrad.
        device: where the rows live.
    """

    def __init__(self, rows: int, dim: int, learning_rate: float, eps: float, device: torch.device):
        self.learning_rate, self.eps = learning_rate, eps
        self.weight = torch.zeros(rows, dim, device=device, requires_grad=True)
        self.moment = torch.zeros(rows, device=device)
        self.weight.register_post_accumulate_grad_hook(self._update)

    def look_up(self, ids: Sequence[KeyedJaggedTensor]) -> list[Tensor]:
        """Rows of the bags, each key's beside those of the one before, [N / K, K * D]."""
        (bags,) = ids
        pooled = functional.embedding_bag(
            bags.values(), self.weight, bags.offsets(), mode="sum", include_last_offset=True
        )
        return [beside(pooled)]

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next backward pass on."""
        self.learning_rate = learning_rate

    def local(self, owner: int) -> tuple[int, Tensor, Tensor]:
        """First row, rows and moments, not copied."""
        return 0, self.weight.detach(), self.moment

    def whole(self, owner: int) -> tuple[Tensor, Tensor]:
        """All rows and moments, not copied."""
        return self.weight.detach(), self.moment

    @torch.no_grad()
    def _update(self, weight: Tensor) -> None:
        """m += mean of g^2 over D; w -= rate * g / (sqrt(m) + eps). A collective call."""
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
        self.moment += gradient.square().mean(1)
        weight -= self.learning_rate * gradient / (self.moment.sqrt() + self.eps).unsqueeze(1)
