"""Tables of N models that read the same ids: their rows stand side by side in one table, [E, N * D].

One look-up finds the rows of all members: an id is read once, its row is contiguous, and the backward pass sorts the
ids once. The row-wise AdaGrad keeps one moment for each row AND member, m[e, n]: a moment of the whole wide row would
couple the members. Each member is updated as `EmbeddingTables` of its own would be (`wide_reference` says it one
member at a time); several processes do not share the rows.

Shape letters: N members, E rows of all features, D embedding dim, B examples, F features, T history events of the
batch, U different rows among the batch's ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from kernels.embedding.bags import Layout
from kernels.embedding.store import EPS
from kernels.embedding.tables import (
    Embedded,
    check_arguments,
    check_learning_rate,
    check_tensor,
    initial_rows,
)
from kernels.embedding.wide_bags import Bags, History, pooled_bags, single_bags
from kernels.embedding.wide_update import look_up, rows_of, summed


class WideTables(nn.Module):
    """`EmbeddingTables` of N members, looked up and updated as one.

    The backward pass updates the rows; they are no `parameters()`. A member whose gradient is not finite is frozen in
    that pass: its rows and moments stay as they are, then and later, and the others are updated as if it were absent.

    Args:
        tables: feature to number of rows.
        dim: D, a multiple of 4, as of `EmbeddingTables`.
        learning_rates: of the members' row-wise AdaGrad, N of them.
        seeds: of the members' initial rows, which are those that `EmbeddingTables` of the same seed draws. None: zeros,
            until `load` brings others.
        history_feature: the feature whose rows history ids look into.
        init_std: standard deviation of the initial rows.
        dtype: float32, or float64 to compare with.
        device: where the rows live.

    Attributes:
        alive: bool [N], False for members that are frozen.

    Raises:
        ValueError: an argument outside its range.
    """

    weight: Tensor
    moment: Tensor
    learning_rates: Tensor
    alive: Tensor

    def __init__(
        self,
        tables: Mapping[str, int],
        dim: int,
        learning_rates: Sequence[float],
        seeds: Sequence[int] | None = None,
        history_feature: str | None = None,
        init_std: float = 0.01,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        if not learning_rates:
            raise ValueError("learning_rates: got none, allowed: one a member, and at least one member")
        if seeds is not None and len(seeds) != len(learning_rates):
            raise ValueError(
                f"seeds: got {len(seeds)} for {len(learning_rates)} members, allowed: one a member"
            )
        for rate in learning_rates:
            check_arguments(tables, dim, rate, history_feature)
        self.features, self.dim, self.members = tuple(tables), dim, len(learning_rates)
        self._layout = Layout(dict(tables), history_feature, torch.device(device))
        shape = (self._layout.n_rows, self.members)
        self.register_buffer("weight", torch.zeros(*shape, dim, dtype=dtype, device=device).flatten(1))
        self.register_buffer("moment", torch.zeros(*shape, dtype=dtype, device=device))
        self.register_buffer("learning_rates", torch.tensor(learning_rates, dtype=dtype, device=device))
        self.register_buffer("alive", torch.ones(self.members, dtype=torch.bool, device=device))
        # Its only use is to be asked for a gradient: the rows are no leaf of autograd.
        self._anchor = torch.zeros((), requires_grad=True)
        for member, seed in enumerate(seeds or ()):
            for feature, (first, end) in self._layout.ranges.items():
                rows = initial_rows(seed, feature, end - first, dim, init_std)
                self._columns(member)[first:end] = rows.to(self.weight)

    def forward(self, sparse: KeyedJaggedTensor, history_ids: Tensor | None = None) -> Embedded:
        """Look up a batch, the history's events one by one.

        Args:
            sparse: ids of at least the tables' features, in any order; several ids of one example are summed.
            history_ids: int64 [T], ids of the history feature.

        Returns:
            `features` [N, B, F, D] and `events` [N, T, D] (None without history ids), views in which the members' rows
            of one bag lie side by side. Their backward pass updates the tables.

        Raises:
            ValueError: a feature is missing, or an id is outside its table.
        """
        features, events = look_up(self, single_bags(self._layout, sparse, history_ids), self._anchor)
        return Embedded(features, None if history_ids is None else events)

    def pooled(self, sparse: KeyedJaggedTensor, history: History) -> Tensor:
        """Look up a batch with the history as one more feature, pooled without its events ever standing side by side.

        Args:
            sparse: as of `forward`.
            history: the events.

        Returns:
            [N, B, F + 1, D], a view as of `forward`; the history's sum or mean is the last, 0 for an example without
            events.

        Raises:
            ValueError: a feature is missing, or an id is outside its table.
        """
        bags = pooled_bags(self._layout, sparse, history, self.weight.dtype)
        return look_up(self, bags, self._anchor)[0]

    def gather(self, bags: Bags) -> Tensor:
        """The bags' sums of all members, [bags, N * D]."""
        return rows_of(self.weight, bags)

    @torch.no_grad()
    def update(self, bags: Bags, gradient: Tensor) -> None:
        """Row-wise AdaGrad of every member that is alive: m += mean of g^2 over D, w -= rate * g / (sqrt(m) + eps).

        Args:
            bags: what was looked up.
            gradient: [bags, N * D].
        """
        if not bags.rows.numel():
            return
        rows, wide = summed(bags, gradient)
        g, squares = self._of_living(wide.view(len(rows), self.members, self.dim))
        # The squares of finite numbers may overflow; only a gradient that is itself not finite freezes. That of a row
        # is: a sum has no finite value where a term has none, and finite terms may overflow.
        if not bool(squares.sum(0).isfinite().all()):
            self.alive &= _finite(g)
            g, squares = self._of_living(g)
        self.moment.index_add_(0, rows, squares)
        steps = -self.learning_rates / (self.moment.index_select(0, rows).sqrt() + EPS)
        self.weight.index_add_(0, rows, g.mul_(steps.unsqueeze(2)).flatten(1))

    def _of_living(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Rows' gradients [U, N, D] and their mean squares [U, N], 0 for members that are frozen."""
        if not bool(self.alive.all()):
            g = torch.where(self.alive.unsqueeze(1), g, 0)
        return g, torch.linalg.vector_norm(g, dim=2).square_().div_(self.dim)

    def freeze(self, member: int) -> None:
        """Leave a member's rows as they are from now on."""
        self.alive[member] = False

    def set_learning_rate(self, member: int, learning_rate: float) -> None:
        """Change a member's learning rate from the next backward pass on."""
        check_learning_rate(learning_rate)
        self.learning_rates[member] = learning_rate

    def export(self, member: int) -> dict[str, Tensor]:
        """A member's rows and moments, copied, in the form of `EmbeddingTables.export`."""
        state = {}
        for feature, (first, end) in self._layout.ranges.items():
            state[f"{feature}.weight"] = self._columns(member)[first:end].clone()
            state[f"{feature}.momentum"] = self.moment[first:end, member].clone()
        return state

    def load(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Take over for a member what `export`, of these or of `EmbeddingTables`, gave.

        Raises:
            ValueError: a tensor is missing or has another shape; then nothing was loaded.
        """
        for feature, (first, end) in self._layout.ranges.items():
            check_tensor(state, f"{feature}.weight", (end - first, self.dim))
            check_tensor(state, f"{feature}.momentum", (end - first,))
        for feature, (first, end) in self._layout.ranges.items():
            self._columns(member)[first:end] = state[f"{feature}.weight"].to(self.weight)
            self.moment[first:end, member] = state[f"{feature}.momentum"].to(self.moment)

    def _columns(self, member: int) -> Tensor:
        """A member's rows, a view [E, D]."""
        return self.weight.view(-1, self.members, self.dim)[:, member]


def _finite(g: Tensor) -> Tensor:
    """bool [N], members whose gradients [U, N, D] are all finite."""
    return g.isfinite().all(2).all(0)
