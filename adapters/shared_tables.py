"""The teacher's tables as further fields of a student.

    field_f = P_f(sum of the copies' rows of the example's ids) + u_f * (how many of these ids the teacher never saw)

Shape letters: B examples, F shared tables, W width of the teacher's tables, D of the student's fields, R rows of all
shared tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec import KeyedJaggedTensor

from adapters.table_projections import TableProjection
from adapters.teacher_file import SharedRows
from distill.batch import Batch
from distill.protocols import Stackable
from kernels.embedding import EmbeddingTables


class SharedTables(Stackable):
    """Part of the student: trained, saved and served with it. Until `take` its fields are 0.

    Args:
        sizes: shared feature to its number of ids.
        width: W.
        dim: D.
        projection: from W to D.
        learning_rate: of the copies; 0 leaves them as they are.
        mean: an id that the teacher never saw has the mean of the rows it has seen; otherwise zeros.
        moments: also copy the rows' AdaGrad moments; otherwise they start at 0.
        seed: of the tables, whose rows are 0 until `take`.

    Attributes:
        tables: the copies, with a fused optimiser of their own.
        unseen: float32 [R, 1], 1 where the teacher never saw the id; 0 before any snapshot.
        filled: bool, True once a snapshot was taken.
    """

    unseen: Tensor
    filled: Tensor
    first_rows: Tensor

    def __init__(
        self,
        sizes: Mapping[str, int],
        width: int,
        dim: int,
        projection: TableProjection,
        learning_rate: float,
        mean: bool,
        moments: bool,
        seed: int,
    ):
        super().__init__()
        self.features = tuple(sizes)
        self.trained, self.mean, self.moments = learning_rate > 0, mean, moments
        self.tables = EmbeddingTables(sizes, width, seed=seed, learning_rate=learning_rate, init_std=0.0)
        self.projection = projection
        self.unseen_vector = nn.Parameter(torch.zeros(len(sizes), dim))
        self.register_buffer("unseen", torch.zeros(sum(sizes.values()), 1))
        self.register_buffer("filled", torch.zeros((), dtype=torch.bool))
        starts = torch.tensor([0, *accumulate(sizes.values())][:-1])
        self.register_buffer("first_rows", starts, persistent=False)

    def forward(self, batch: Batch, item: Tensor) -> Tensor:
        """Fields of a batch.

        Args:
            batch: whose ids are looked up.
            item: the student's own rows of the items, not read here.

        Returns:
            float32 [B, F, D].
        """
        fields = self.projection(self._rows(batch.sparse))
        return fields + self.count_unseen(batch.sparse).unsqueeze(2) * self.unseen_vector.unsqueeze(-3)

    @torch.no_grad()
    def take(self, rows: Mapping[str, SharedRows]) -> None:
        """Put a snapshot's rows in the place of those that are there.

        Args:
            rows: by shared feature; of width W.
        """
        tables = [rows[feature] for feature in self.features]
        if not self.filled:
            self.projection.fit([table.weight[table.seen] for table in tables])
        state = {}
        for feature, table in zip(self.features, tables, strict=True):
            state[f"{feature}.weight"] = torch.where(
                table.seen.unsqueeze(1), table.weight, self._blank(table)
            )
            state[f"{feature}.momentum"] = table.moment * (table.seen & self.moments)
        self.tables.load(state)
        self.unseen.copy_(torch.cat([~table.seen for table in tables]).unsqueeze(1))
        self.filled.fill_(True)

    @torch.no_grad()
    def served_rows(self) -> dict[str, Tensor]:
        """What one id adds to its feature's field, float32 [ids, D] by feature: the map from W to D is linear, so that
        it and the vector of the unseen may be folded into the rows of a student that is served."""
        state, rows = self.tables.export(), {}
        for place, (feature, first) in enumerate(zip(self.features, self.first_rows.tolist(), strict=True)):
            copied = state[f"{feature}.weight"]
            unseen = self.unseen[first : first + len(copied)]
            fields = self.projection(copied.unsqueeze(1).expand(-1, len(self.features), -1))[:, place]
            rows[feature] = fields + unseen * self.unseen_vector[place]
        return rows

    @torch.compiler.disable  # a compiled model calls it between its graphs, as it does the tables
    def count_unseen(self, sparse: KeyedJaggedTensor) -> Tensor:
        """How many ids of each example the teacher never saw, float32 [B, F]; 0 before any snapshot."""
        picked = sparse.permute([list(sparse.keys()).index(feature) for feature in self.features])
        per_table = torch.tensor(picked.length_per_key(), device=self.first_rows.device)
        rows = picked.values() + self.first_rows.repeat_interleave(per_table)
        counts = functional.embedding_bag(
            rows, self.unseen, picked.offsets(), mode="sum", include_last_offset=True
        )
        return counts.view(len(self.features), -1).t()

    @torch.compiler.disable
    def _rows(self, sparse: KeyedJaggedTensor) -> Tensor:
        """Sums of the copies' rows, [B, F, W]. A gradient that is not let through here never updates them."""
        rows = self.tables(sparse).features
        return rows if self.trained and self.filled else rows.detach()

    def _blank(self, table: SharedRows) -> Tensor:
        """What stands for an id that the teacher never saw, [W]."""
        if self.mean and table.seen.any():
            return table.weight[table.seen].mean(0)
        return table.weight.new_zeros(table.weight.size(1))
