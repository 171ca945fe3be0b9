"""What a model costs before it is trained: its parameters, and its FLOPs on a batch with histories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distill.batch import Batch
from distill.flops import count
from distill.protocols import Architecture
from distill.schedule import DayPlan, Schedule
from experiments.quantity import quantity
from kernels.embedding import EmbeddingTables, dense_parameters


@dataclass(frozen=True)
class ModelCost:
    """The size of a model.

    Attributes:
        dense_parameters: trained numbers outside of the tables.
        table_parameters: numbers in the tables, those of a channel's copies of the teacher's too.
        forward_flops_per_example: model FLOPs of predicting one example (distill.flops).
        flops_per_example: of training on one: forward and backward.
    """

    dense_parameters: int
    table_parameters: int
    forward_flops_per_example: float
    flops_per_example: float

    def shown(self) -> dict[str, str]:
        """The same for people, by name."""
        return {
            "dense parameters": quantity(self.dense_parameters),
            "in tables": quantity(self.table_parameters),
            "FLOPs per example": f"{quantity(self.forward_flops_per_example)} forward, "
            f"{quantity(self.flops_per_example)} in training",
        }


def model_cost(model: Architecture, batches: Iterable[Batch]) -> ModelCost:
    """Count parameters and FLOPs; the model stays as it is.

    Args:
        model: any architecture.
        batches: a day of them, the first of which is counted.
    """
    flops = count(model, next(iter(batches)))
    return ModelCost(
        sum(parameter.numel() for parameter in dense_parameters(model)),
        sum(tables.n_parameters for tables in model.modules() if isinstance(tables, EmbeddingTables)),
        flops.forward_per_example,
        flops.per_example,
    )


def counted_day(schedule: Schedule, plan: DayPlan) -> int:
    """The last day trained on before the tune days, when histories have grown; else the first trained on."""
    before = [day for day in plan.train if day < min(schedule.config.tune_days)]
    return before[-1] if before else plan.train[0]
