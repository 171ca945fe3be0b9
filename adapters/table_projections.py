"""From the rows of a teacher's tables to the width of the student's fields.

Shape letters: B examples, F shared tables, W width of the teacher's tables, D of the student's fields, R rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.protocols import Stackable

INITIAL_STD = 0.01
"""Of a learned field's numbers at the start: that of the student's own rows when they are new."""


class TableProjection(Stackable, ABC):
    """Rows [B, F, W] to fields [B, F, D], a map of its own for each table."""

    def fit(self, rows: Sequence[Tensor]) -> None:
        """Look at the first snapshot, and at no later one: what the student has learnt of the fields must stay true.

        Args:
            rows: by table, those that the teacher has seen, float32 [R, W].
        """

    @abstractmethod
    def forward(self, rows: Tensor) -> Tensor: ...


class EqualWidths(TableProjection):
    """Nothing to do, as W is D."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows


class LearnedProjection(TableProjection):
    """A matrix for each table, trained by the student's dense optimiser (ours).

    The matrix sees rows of mean square length 1, by one factor a table: as small as embeddings are, Adam, whose steps
    are of one size, would leave it behind; much longer, and one step moves a field by more than the student's own rows
    ever move. It starts as small as makes a field look like a new row of the student's own table, which the student
    hardly feels.

    Args:
        tables: F.
        width: W.
        dim: D.
    """

    scale: Tensor

    def __init__(self, tables: int, width: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(tables, width, dim) * INITIAL_STD)
        self.register_buffer("scale", torch.ones(tables, 1))

    @torch.no_grad()
    def fit(self, rows: Sequence[Tensor]) -> None:
        for scale, seen in zip(self.scale, rows, strict=True):
            length = seen.square().sum(1).mean().sqrt()
            scale.fill_(1 / length if length > 0 else 1.0)  # of no row the mean is NaN

    def forward(self, rows: Tensor) -> Tensor:
        return torch.einsum("bfw,...fwd->...bfd", rows * self.scale, self.weight)


class SVDProjection(TableProjection):
    """The directions in which the first snapshot's rows are longest, fixed; fields keep the teacher's size (ours).

    Args:
        tables: F.
        width: W.
        dim: D.
    """

    basis: Tensor

    def __init__(self, tables: int, width: int, dim: int):
        super().__init__()
        self.register_buffer("basis", torch.zeros(tables, width, dim))

    @torch.no_grad()
    def fit(self, rows: Sequence[Tensor]) -> None:
        for basis, seen in zip(self.basis, rows, strict=True):
            basis.copy_(svd_basis(seen, basis.size(1)))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.einsum("bfw,fwd->bfd", rows, self.basis)


def svd_basis(rows: Tensor, dim: int) -> Tensor:
    """The first right singular vectors: of all maps to `dim` numbers, rows lose least by them (Eckart and Young, 1936).

    Args:
        rows: [R, W].
        dim: D; columns beyond W hold 0.

    Returns:
        float32 [W, D], orthonormal columns, each turned so that its largest entry is positive.
    """
    exact = rows.double()
    _, vectors = torch.linalg.eigh(
        exact.T @ exact
    )  # of [W, W], however many rows there are; the longest come last
    vectors = vectors.flip(1)[:, :dim]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    turned = vectors * largest.sign()
    return functional.pad(turned, (0, dim - turned.size(1))).float()
