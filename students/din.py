"""DIN (Zhou et al., arXiv 1706.06978): the user's past, weighed by its relevance to the item at hand.

Shape letters: B examples, F fields, D embedding dim, N dense features, T events of the whole batch, K tasks
of the schema, S surfaces (domains).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch, Events
from distill.protocols import Output
from distill.seeding import seeded
from kernels.segments import Segments, pool, softmax
from students.base import Student
from students.blocks import MLP, ActivationUnit
from students.config import DINConfig


class DIN(Student):
    """MLP over [embeddings, interest, dense features]; interest = sum of the events' embeddings, each times
    its weight.

    Args:
        config: sizes and form of the attention.
        common: the other arguments of `Student`, by name.
    """

    def __init__(self, config: DINConfig, **common: Any):
        super().__init__(dim=config.dim, history_length=config.history_length, history_pooling=None, **common)
        self.softmax = config.softmax
        place = self.features.index(self.schema.item_feature)
        self.cuts = [place * self.dim, self.dim, (len(self.features) - place - 1) * self.dim]
        with seeded(self.seed, "student"):
            self.context = (
                EventContext(len(self.schema.domains), len(self.schema.tasks), self.dim)
                if config.event_context
                else None
            )
            self.unit = ActivationUnit(self.dim, config.attention, config.activation)
            self.deep = MLP(self.input_width + self.dim, config.mlp, config.activation)
            self.add_heads(config.mlp[-1])

    def forward(self, batch: Batch) -> Output:
        embedded = self.look_up(batch)
        history, events = self.own_events(batch, embedded)
        # Cut and joined again: the gradients of the pieces then meet in one copy, not in one per use.
        before, target, after = embedded.features.flatten(1).split(self.cuts, dim=1)
        interest = self.interest(history, events, target)
        dense = [batch.dense] if self.dense_features else []
        given = [fields.flatten(1) for fields in self.given_fields(batch, embedded)]
        penultimate = self.deep(torch.cat([before, target, after, *given, interest, *dense], dim=1))
        fields = embedded.features.flatten(1)
        return self.output(torch.cat([fields, *given], dim=1) if given else fields, penultimate)

    def interest(self, history: Events, events: Tensor, target: Tensor) -> Tensor:
        """The past as seen from the target, [B, D]; 0 for a user without a past.

        Args:
            history: of the batch.
            events: float32 [T, D], embeddings of its items.
            target: float32 [B, D].
        """
        segments = Segments.of(history.offsets, len(events))
        if self.context is not None:
            events = self.context(history, events)
        weights = self.unit(events, target, segments)
        return pool(events, segments, softmax(weights, segments) if self.softmax else weights)


class EventContext(nn.Module):
    """Adds to an event's embedding one learned vector for its surface and one for each of its known labels
    (ours).

    Args:
        domains: S.
        tasks: K.
        dim: D.
    """

    def __init__(self, domains: int, tasks: int, dim: int):
        super().__init__()
        self.domains = domains
        self.vectors = nn.Parameter(torch.empty(domains + 2 * tasks, dim))
        # As small as the tables' rows at their start.
        nn.init.normal_(self.vectors, std=0.01)

    def forward(self, history: Events, events: Tensor) -> Tensor:
        # One product with a matrix of zeros and ones: its gradient is a product too, not a scatter.
        return torch.addmm(events, history.flags(self.domains, events.dtype), self.vectors)


def build(config: DINConfig, **common: Any) -> DIN:
    """Builder for the registry; `common` are the arguments of `Student`."""
    return DIN(config, **common)
