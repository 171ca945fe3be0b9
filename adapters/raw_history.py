"""The control of representation transfer: as long a history, of raw item ids in place of the teacher's representations.

Most of what a stored history brings may be the history alone (LoopFM, arXiv 2605.29280: .6302 of .6319 AUC), which
needs no teacher. So the same encoders read the student's own embeddings of the items in the user's history.

Shape letters: B examples, T events of the batch, D embedding dim, S surfaces (domains), K tasks of the schema.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.encoders import ROW_STD, PastEncoder
from adapters.representation import check_heads
from adapters.representation_config import RawHistoryConfig
from distill.batch import Batch, Past
from distill.protocols import Architecture, Channel, Output, Stackable
from distill.schema import FeatureSchema
from distill.seeding import seeded


class RawHistory(Channel):
    """One field of the user's raw history, whatever history the student reads itself.

    Args:
        config: how many events, and how they become a field.
        seed: of the encoder's initial values.
    """

    touches_serving_head = False
    in_banks = True
    needs = frozenset()
    fields = ("rawid.user",)

    def __init__(self, config: RawHistoryConfig, seed: int):
        super().__init__()
        self.config = config
        self.seed = seed
        self.history_length = config.history_length

    def attach(self, student: Architecture) -> None:
        """Build the encoder in the student's width.

        Raises:
            UserError: the heads do not divide that width.
        """
        check_heads(self.config.heads, self.config.encoder, student.dim, "rawid")
        with seeded(self.seed, "channel.rawid"):
            student.event_inputs["rawid"] = RawHistoryField(self.config, student)

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing to learn from; the share of the examples that have no past."""
        assert batch.history is not None
        return output.logits.new_zeros(()), {
            "without_user_past": (batch.history.offsets.diff() == 0).float().mean()
        }


class RawHistoryField(Stackable):
    """An event is the embedding of its item, and learned vectors of its surface and of each of its known labels.

    Args:
        config: of the channel.
        student: whose embeddings are read.
    """

    def __init__(self, config: RawHistoryConfig, student: Architecture):
        super().__init__()
        self.length, self.carried = config.history_length, student.history_length
        self.domains = len(student.schema.domains)
        flags = self.domains + 2 * len(student.schema.tasks)
        self.context = nn.Parameter(torch.empty(flags, student.dim))
        nn.init.normal_(self.context, std=ROW_STD)
        self.encoder = PastEncoder(
            student.dim, student.dim, config.encoder, config.history_length, config.heads, value_scale=ROW_STD
        )

    def forward(self, batch: Batch, item: Tensor, events: Tensor) -> Tensor:
        """The field, [B, 1, D].

        Args:
            batch: with a history.
            item: float32 [B, D], embedding of the examples' items.
            events: float32 [T, D], embeddings of the history's items.
        """
        history = batch.history
        assert history is not None
        if self.carried > self.length:
            history, events = history.last(self.length, events)
        known = events + history.flags(self.domains, events.dtype) @ self.context
        return self.encoder(Past(history.offsets, known, history.time), batch.timestamp, item).unsqueeze(-2)


def build(config: RawHistoryConfig, schema: FeatureSchema, seed: int) -> RawHistory:
    """Builder for the registry."""
    return RawHistory(config, seed)
