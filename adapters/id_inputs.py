"""What a Student Adapter reads of an example beside the teacher: ids, each through a table of the adapter's own (ours).

An adapter that reads logits alone can move a teacher's level; whom a late teacher does not know yet, it cannot tell.
With ids it learns from the newest labels what the teacher would say of them by now. The tables exist in training only.

Shape letters: B examples, n features, D width of a row.
"""

from __future__ import annotations

from torch import Tensor, nn

from adapters.adapter_config import StudentAdapterConfig
from distill.batch import Batch
from distill.errors import UserError, nearest
from distill.protocols import Architecture
from distill.schema import FeatureSchema
from kernels.embedding import EmbeddingTables


class IdInputs(nn.Module):
    """Tables of some features, which learn in the backward pass of the adapter's loss.

    Args:
        config: which features, width and learning rate.
        schema: the data set's schema.
        seed: of the initial rows.
    """

    def __init__(self, config: StudentAdapterConfig, schema: FeatureSchema, seed: int):
        super().__init__()
        self.tables = EmbeddingTables(
            {name: schema.sparse[name].size for name in config.features},
            config.dim,
            seed,
            config.table_learning_rate,
        )

    @property
    def width(self) -> int:
        """n D."""
        return len(self.tables.features) * self.tables.dim

    def forward(self, batch: Batch) -> Tensor:
        """The rows side by side, float32 [B, n D]."""
        return self.tables(batch.sparse).features.flatten(1)


def check_features(
    config: StudentAdapterConfig, schema: FeatureSchema, student: Architecture | None = None
) -> None:
    """Refuse features that the data lack, or that the batches of a student do not carry.

    Raises:
        UserError: names the first of them and what is allowed.
    """
    known = tuple(schema.sparse) if student is None else student.features
    for name in config.features:
        if name not in known:
            whose = "of the data" if student is None else "that the student reads"
            raise UserError(
                f"adapter.features: got '{name}', allowed: sparse features {whose} ({', '.join(known)}). "
                f"{nearest(name, known)}".rstrip()
            )
