"""How embedding tables are shared when several processes train one model. Free of torch.

| kind          | rows of a table          | a look-up exchanges    | an update exchanges                         |
|---------------|--------------------------|------------------------|---------------------------------------------|
| row_wise      | an equal range in each   | ids and embeddings     | gradients of embeddings                     |
| table_wise    | all in one process       | ids and embeddings     | gradients of embeddings                     |
| data_parallel | all in every one, a copy | nothing                | the gradient of all rows: for small tables  |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ROW_WISE, TABLE_WISE, DATA_PARALLEL = "row_wise", "table_wise", "data_parallel"
KINDS = (ROW_WISE, TABLE_WISE, DATA_PARALLEL)
_NOT_COLUMN_WISE = (
    "; not column_wise, which splits rows: row-wise AdaGrad divides by the mean square of a whole row's gradient, so "
    "every piece would have a moment of its own, and that is another algorithm"
)


class ShardingError(ValueError):
    """Tables cannot be shared as asked for."""


@dataclass(frozen=True)
class Sharding:
    """What is asked for; one process alone holds everything whatever it is.

    Attributes:
        tables: kind of every table without one of its own.
        kinds: feature to the kind of its table.
        group: processes that hold all sharded tables between them; each such group has a copy, and copies are
            averaged after every step (2-D sparse parallelism, CUDA only). 0: all processes are one group.
    """

    tables: str = ROW_WISE
    kinds: Mapping[str, str] = field(default_factory=dict)
    group: int = 0

    def __post_init__(self) -> None:
        for name, kind in {
            "tables": self.tables,
            **{f"kinds.{n}": kind for n, kind in self.kinds.items()},
        }.items():
            if kind not in KINDS:
                raise ShardingError(f"sharding.{name}: got '{kind}', allowed: {allowed_instead_of(kind)}")

    def kind_of(self, feature: str) -> str:
        """One of KINDS."""
        return self.kinds.get(feature, self.tables)


def allowed_instead_of(kind: str) -> str:
    """What may stand where an unknown kind stands, for a message."""
    return ", ".join(KINDS) + (_NOT_COLUMN_WISE if kind == "column_wise" else "")
