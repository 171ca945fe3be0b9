"""A table that every process holds whole: data parallel, for few rows that every batch reads.

torchrec's data-parallel tables have dense gradients, and its fused optimiser leaves them out: somebody else has to
step them. This one steps itself, as the fused tables do, so that no optimiser has to know of it: the backward pass
begins to exchange the gradient, and whoever uses the table next waits for the end of that and updates it. Meanwhile
the process goes on, and the slower one catches up.

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
        self.weight.register_post_accumulate_grad_hook(self._begin_update)
        self._begun: tuple[dist.Work, Tensor] | None = None

    def look_up(self, ids: Sequence[KeyedJaggedTensor]) -> list[Tensor]:
        """Rows of the bags, each key's beside those of the one before, [N / K, K * D]."""
        self._end_update()
        (bags,) = ids
        pooled = functional.embedding_bag(
            bags.values(),
            self.weight,
            bags.offsets(),
            mode="sum",
            sparse=True,  # a tenth of the time of a dense gradient
            include_last_offset=True,
        )
        return [beside(pooled)]

    def set_learning_rate(self, learning_rate: float) -> None:
        """From the next backward pass on."""
        self._end_update()
        self.learning_rate = learning_rate

    def local(self, owner: int) -> tuple[int, Tensor, Tensor]:
        """First row, rows and moments, not copied."""
        return 0, *self.whole(owner)

    def whole(self, owner: int) -> tuple[Tensor, Tensor]:
        """All rows and moments, not copied."""
        self._end_update()
        return self.weight.detach(), self.moment

    @torch.no_grad()
    def _begin_update(self, weight: Tensor) -> None:
        """Begin to add up the processes' gradients; a collective call."""
        self._end_update()
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        rows = torch.zeros_like(weight).index_add_(0, gradient._indices()[0], gradient._values())
        self._begun = dist.all_reduce(rows, async_op=True), rows

    @torch.no_grad()
    def _end_update(self) -> None:
        """Of the mean gradient g: m += mean of g^2 over D; w -= rate * g / (sqrt(m) + eps)."""
        if self._begun is None:
            return
        (work, gradient), self._begun = self._begun, None
        work.wait()
        gradient /= dist.get_world_size()
        self.moment += torch.linalg.vecdot(gradient, gradient) / gradient.shape[1]
        scale = self.learning_rate / (self.moment.sqrt() + self.eps)
        self.weight.addcmul_(gradient, scale.unsqueeze(1), value=-1)
