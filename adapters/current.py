"""The teacher's representation of the example itself as one field: a control of representation transfer.

It tells what reading the teacher at the very example is worth (LoopFM, arXiv 2605.29280: little more than
distillation), at a price that no student can pay: the teacher is run when serving.

Shape letters: B examples, R width of the representation, D embedding dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.encoders import ROW_STD, leading
from adapters.representation_config import CurrentConfig
from distill.batch import Batch
from distill.past import ServedRepresentations
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded


class Current(Channel):
    """One field of the teacher's representation of the example.

    Its loss is 0, so that it does not touch the serving head; its field is part of what is served.

    Args:
        config: width of the representation.
        seed: of the field's initial values.
    """

    touches_serving_head = False
    needs = frozenset({"served_representation"})
    fields = ("current",)

    def __init__(self, config: CurrentConfig, seed: int):
        super().__init__()
        self.config = config
        self.seed = seed

    def attach(self, student: Architecture) -> None:
        """Build the map into the student's width."""
        with seeded(self.seed, "channel.current"):
            student.inputs["current"] = CurrentField(self.config.dim, student.dim)

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing to learn from."""
        return output.logits.new_zeros(()), {}


class CurrentField(nn.Module):
    """A linear map of the representation, and a learned vector where the teacher says nothing.

    Both begin as small as the tables' rows: the student starts where it would without the field.

    Args:
        width: R.
        dim: D.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.project = nn.Linear(width, dim, bias=False)
        self.absent = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.project.weight, std=ROW_STD * width**-0.5)
        nn.init.normal_(self.absent, std=ROW_STD)

    def forward(self, batch: Batch, item: Tensor) -> Tensor:
        """The field, [B, 1, D], of a batch with the teacher's representations."""
        signal, width = batch.teacher, self.project.in_features
        assert signal is not None and signal.representation is not None, "no representation in the batch"
        field = self.project(leading(signal.representation, width))
        return torch.where(signal.mask.unsqueeze(1), field, self.absent.to(field.dtype)).unsqueeze(1)

    def served_representations(self) -> ServedRepresentations:
        """What it reads of a batch, for an export."""
        return ServedRepresentations(self.project.in_features, current=True)


def build(config: CurrentConfig, schema: FeatureSchema, seed: int) -> Current:
    """Builder for the registry."""
    return Current(config, seed)
