"""What came of the events of the past, learnt from like the labels of the examples: many more labels of the same kind.

A history is more than an input. Each of its events was an exposure with outcomes, and there are tens of events to an
example; a model that only reads them learns what items are, and who likes them, from the examples alone. Here every
event is also predicted from the user's events before it:

    s_t = (sum over events r before t of g[outcomes_r] ⊙ x_r) / √(t - 1)        what the user did so far, 0 at the first
    h_t = SiLU(W [x_t ‖ s_t ‖ x_t ⊙ V s_t ‖ surface_t])                          surfaces one-hot
    m_t = x_t ⊙ V s_t, added up over the dimensions of each task                does the item match what was liked
    z_t = head([h_t ‖ m_t]) + bias[surface_t]                                   a logit for every task

with x_t the embedding of the event's item, g one vector for each combination of outcomes. The loss of the z_t joins
that of the examples, `weight` for an event where an example's own labels have 1. The same is asked about the item at
hand, with all events before it: two tokens for the other tower, W_o [h ‖ m] and s.

Ours, after DIEN's auxiliary loss (arXiv 1809.03672), which tells the next item from a random one where this one
predicts outcomes, generative training over all actions of a history (HSTU, arXiv 2402.17152), and the user as the sum
of the items of the past (asymmetric SVD, KDD 2008). V starts as the identity and g as the outcomes' signs, each task on
dimensions of its own, so that m starts as an item-to-item match: a factorization learns slowly from random signs.

An event counts for a task once the task's window has closed at the example's time: outcomes of 1 are known sooner than
those of 0, and what is known early would be too often 1. What an event is predicted from, though, are outcomes as they
are known at the example's time: a conversion of event r may have come after event t. Where windows are long this makes
the auxiliary task easier than the main one; it tells no example its own outcome.

Shape letters: B examples, T events of all histories (jagged), d width, D surfaces, K tasks of the schema, k tasks of
the model, W hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.batch import Events
from kernels.segments import Segments, pool, spread
from teachers.heads import TaskHeads

TOKENS = 2
"""That come out for the other tower."""


class EventOutcomes(nn.Module):
    """See the module's text.

    Args:
        dim: d, at least k.
        hidden: W.
        domains: D.
        tasks: names of the k tasks.
        task_index: their positions among the K tasks of the schema.
        windows: of the k tasks, ms.
        schema_tasks: K.
    """

    windows: Tensor
    powers: Tensor
    of_task: Tensor

    def __init__(
        self,
        dim: int,
        hidden: int,
        domains: int,
        tasks: tuple[str, ...],
        task_index: Sequence[int],
        windows: Sequence[int],
        schema_tasks: int,
    ):
        super().__init__()
        self.task_index = list(task_index)
        self.register_buffer("windows", torch.tensor(windows), persistent=False)
        self.register_buffer("powers", 3 ** torch.arange(schema_tasks), persistent=False)
        of_task = functional.one_hot(torch.arange(dim) % len(tasks), len(tasks)).float()
        self.register_buffer("of_task", of_task, persistent=False)
        self.outcome = nn.Parameter(self._signs(schema_tasks))
        self.mix = nn.Parameter(torch.eye(dim))
        self.domains = domains
        self.layer = nn.Linear(3 * dim + domains, hidden)
        self.heads = TaskHeads(hidden + len(tasks), domains, tasks)
        with torch.no_grad():
            self.heads.shared.weight[:, hidden:] = torch.eye(len(tasks))
        self.token = nn.Linear(hidden + len(tasks), dim)

    def forward(self, events: Events, items: Tensor, target: Tensor, domain: Tensor) -> Tensor:
        """What the past says about the item at hand.

        Args:
            events: of the batch.
            items: [T, d], embeddings of the events' items.
            target: [B, d], that of the item at hand.
            domain: int64 [B], the examples' surfaces.

        Returns:
            [B, 2, d]; of an empty history the second token is 0.
        """
        segments = Segments.of(events.offsets, len(items))
        state = pool(self._told(events, items), segments) / _root(segments.lengths, items)
        return torch.stack([self.token(self._hidden(target, state, domain)), state], dim=1)

    def loss(self, events: Events, items: Tensor, now: Tensor) -> Tensor:
        """Cross-entropy of the events' outcomes, summed over an example's events and over tasks.

        Args:
            events: of the batch.
            items: [T, d], embeddings of the events' items.
            now: int64 [B], ms, the examples' times.

        Returns:
            [B]; 0 where no outcome is known.
        """
        segments = Segments.of(events.offsets, len(items))
        logits = self.logits(events, items, segments)
        labels = events.labels[:, self.task_index]
        ages = spread(now, segments) - events.time
        known = (labels >= 0) & (ages.unsqueeze(1) >= self.windows)
        losses = functional.binary_cross_entropy_with_logits(
            logits, labels.clamp_min(0).to(logits.dtype), reduction="none"
        )
        return pool(torch.where(known, losses, 0.0), segments).sum(dim=1)

    def logits(self, events: Events, items: Tensor, segments: Segments) -> Tensor:
        """z, [T, k]: every event from those before it."""
        # Sums over all rows, of which differences are taken: in double precision no row feels the others.
        sums = functional.pad(self._told(events, items).double().cumsum(0), (0, 0, 1, 0))
        start = sums.index_select(0, segments.offsets[:-1])
        place = segments.places - segments.offsets[:-1].index_select(0, segments.rows)
        states = (sums[:-1] - spread(start, segments)).to(items.dtype) / _root(place, items)
        return self.heads(self._hidden(items, states, events.domain), events.domain)

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """Start the biases at the rates, as `TaskHeads` does."""
        self.heads.set_base_rates(rates)

    def _told(self, events: Events, items: Tensor) -> Tensor:
        """g[outcomes] ⊙ x of every event, [T, d]."""
        outcome = ((events.labels.long() + 1) * self.powers).sum(dim=1)
        return items * functional.embedding(outcome, self.outcome)

    def _hidden(self, items: Tensor, states: Tensor, domain: Tensor) -> Tensor:
        """[h ‖ m] of items with what was done before, [., W + k]."""
        product = items * (states @ self.mix.T)
        surface = functional.one_hot(domain, self.domains).to(items.dtype)
        hidden = functional.silu(self.layer(torch.cat([items, states, product, surface], dim=1)))
        return torch.cat([hidden, product @ self.of_task], dim=1)

    def _signs(self, schema_tasks: int) -> Tensor:
        """g at the start, [3^K, d]: 1 for a yes, -1 for a no, 0 for not known, of the task of each dimension."""
        outcomes = torch.arange(3**schema_tasks).unsqueeze(1) // self.powers % 3 - 1
        signs = torch.tensor([0.0, -1.0, 1.0])[outcomes + 1]
        return signs[:, self.task_index] @ self.of_task.T


def _root(count: Tensor, like: Tensor) -> Tensor:
    """√ of counts, at least 1, as a column."""
    return count.clamp_min(1).to(like.dtype).sqrt().unsqueeze(1)
