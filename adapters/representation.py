"""Representation transfer: what the teacher stored of earlier examples, as fields of the student (LoopFM, arXiv
2605.29280).

Strictly before an example, by user (the last L of its representations), by item (LFM4Ads: their decayed mean over
earlier days), or both. The teacher itself is not run when serving: what it left behind is read.

Shape letters: B examples, R width of a stored vector, D embedding dim, n fields.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.encoders import PastEncoder, leading
from adapters.representation_config import StoredRepresentationsConfig
from distill.batch import Batch, Past
from distill.errors import UserError
from distill.past import PastRequest, ServedRepresentations
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded

GROUPS = {"user": ("user",), "item": ("item",), "both": ("user", "item")}


class StoredRepresentations(Channel):
    """Fields of the teacher's stored representations.

    Its loss is 0, so that it does not touch the serving head; its fields are part of what is served.

    Args:
        config: what is read, and how it becomes fields.
        seed: of the encoders' initial values.
    """

    touches_serving_head = False
    in_banks = True
    needs = frozenset()

    def __init__(self, config: StoredRepresentationsConfig, seed: int):
        super().__init__()
        self.config = config
        self.seed = seed
        self.groups = GROUPS[config.group]
        self.fields = tuple(f"repr.{group}" for group in self.groups)
        self.past = PastRequest(
            user_events=config.history_length if "user" in self.groups else 0,
            item="item" in self.groups,
            alignment=config.alignment,
            codec=config.codec,
            half_life_days=config.half_life_days,
        )

    def attach(self, student: Architecture) -> None:
        """Build the encoders in the student's width.

        Raises:
            UserError: the heads do not divide that width.
        """
        check_heads(self.config.heads, self.config.encoder, student.dim, "repr")
        with seeded(self.seed, "channel.repr"):
            student.inputs["repr"] = RepresentationFields(self.config, self.groups, student.dim)

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing to learn from; the share of the examples that have no past, by group."""
        empty = {
            f"without_{group}_past": (batch.past[group].offsets.diff() == 0).float().mean()
            for group in self.groups
        }
        return output.logits.new_zeros(()), empty


class RepresentationFields(nn.Module):
    """One field a group; an item has at most one vector, so that its encoder is the mean.

    Args:
        config: of the channel.
        groups: of `batch.past`.
        dim: D.
    """

    def __init__(self, config: StoredRepresentationsConfig, groups: tuple[str, ...], dim: int):
        super().__init__()
        self.width = config.dim
        self.user_events = config.history_length if "user" in groups else 0
        self.encoders = nn.ModuleDict({group: make_encoder(group, config, dim) for group in groups})

    def forward(self, batch: Batch, item: Tensor) -> Tensor:
        """Fields [B, n, D] of a batch with `past`, beside the embedding [B, D] of its items."""
        fields = []
        for group, encoder in self.encoders.items():
            stored = batch.past[group]
            past = Past(stored.offsets, leading(stored.values, self.width), stored.time)
            fields.append(encoder(past, batch.timestamp, item))
        return torch.stack(fields, dim=-2)

    def served_representations(self) -> ServedRepresentations:
        """What it reads of a batch, for an export."""
        return ServedRepresentations(self.width, self.user_events, item="item" in self.encoders)


def make_encoder(group: str, config: StoredRepresentationsConfig, dim: int) -> PastEncoder:
    """The encoder of a group. A tanh made the values, whose mean square is of the order of 1.

    Args:
        group: user or item.
        config: of the channel.
        dim: D.
    """
    if group == "item":
        return PastEncoder(config.dim, dim, "mean", length=1, heads=1, value_scale=1.0)
    return PastEncoder(config.dim, dim, config.encoder, config.history_length, config.heads, value_scale=1.0)


def check_heads(heads: int, encoder: str, dim: int, channel: str) -> None:
    """Refuse heads of target attention that do not divide the student's width D = `dim`.

    Raises:
        UserError: naming the field of the channel.
    """
    if encoder == "target_attention" and dim % heads:
        raise UserError(f"{channel}.heads: got {heads}, allowed: divisors of the student's dim, {dim}")


def build(config: StoredRepresentationsConfig, schema: FeatureSchema, seed: int) -> StoredRepresentations:
    """Builder for the registry."""
    return StoredRepresentations(config, seed)
