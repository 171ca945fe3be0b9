"""GEM, the teacher (Meta engineering blog, 2025-11-10): split towers, one trunk, many surfaces and tasks.

Features become tokens of one width, the user's past on every surface a jagged sequence of them. Two towers work on
both, side by side or interleaved (`teachers.towers`); a trunk shared by the surfaces, or experts mixed for each
(`teachers.surfaces`), feeds a head for every task (`teachers.heads`). What came of the events of the past may be learnt
as well (`teachers.event_outcomes`).

Taps: `embedding`, the features' rows; `user` and `item`, what is known of either alone; `interaction_1`, ... after each
Wukong layer; `cross`, the trunk's input; `penultimate`, the heads' input.

Shape letters: B examples, F sparse features, N dense features, M modalities, n tokens, d width, T events, k tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch, Events
from distill.inputs import check_inputs
from distill.protocols import Architecture, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded
from kernels.embedding import EmbeddingTables
from teachers.config import GEMConfig
from teachers.event_outcomes import TOKENS, EventOutcomes
from teachers.heads import TaskHeads
from teachers.interest import Interest
from teachers.modality import ModalityTower
from teachers.sequence import EventEncoder, mean_events
from teachers.surfaces import SurfaceExperts, SurfaceNorm
from teachers.towers import History, InterleavedTowers, SeparateTowers, Towers


class GEM(Architecture):
    """See the module's text.

    Args:
        config: sizes and switches.
        schema: the data set's schema.
        tasks: tasks to predict.
        features: sparse features to read; the schema's item feature is needed when there is a history.
        dense_features: dense features to read.
        seed: of the initial values.
        table_learning_rate: of the fused tables.
        content: modalities to read, of the example's item and of the history's.

    Raises:
        UserError: a name that the schema lacks, a history without the item feature, or a conditional task that does
            not fit.
    """

    def __init__(
        self,
        config: GEMConfig,
        schema: FeatureSchema,
        tasks: tuple[str, ...],
        features: tuple[str, ...],
        dense_features: tuple[str, ...],
        seed: int,
        table_learning_rate: float,
        content: tuple[str, ...] = (),
    ):
        super().__init__()
        check_inputs(schema, tasks, features, dense_features, config.history_length, content)
        self.schema, self.tasks = schema, tuple(tasks)
        self.features, self.dense_features, self.content = features, dense_features, tuple(content)
        self.history_length = config.history_length
        self.item_place = features.index(schema.item_feature) if config.history_length else 0
        self.tables = EmbeddingTables(
            {name: schema.sparse[name].size for name in features},
            config.dim,
            seed=seed,
            learning_rate=table_learning_rate,
            history_feature=schema.item_feature if config.history_length else None,
        )
        with seeded(seed, "teacher"):
            self._build(config)

    def _build(self, config: GEMConfig) -> None:
        dim, domains = config.dim, len(self.schema.domains)
        widths = {name: self.schema.content[name].width for name in self.content}
        self.domain = nn.Embedding(domains, dim)
        nn.init.normal_(self.domain.weight, std=0.1)
        self.dense = _dense_token(len(self.dense_features), dim) if self.dense_features else None
        self.modalities = ModalityTower(widths, dim) if widths else None
        if config.history_length:
            tasks = len(self.schema.tasks)
            self.events = EventEncoder(dim, domains, tasks, config.sequence.merge, len(widths))
        tokens = len(self.features) + 1 + bool(self.dense_features) + len(widths)
        self.interest = None
        if config.history_length and config.summaries.interests:
            self.interest = Interest(dim, config.summaries.interests)
            tokens += self.interest.tokens
        self.outcome_weight = config.outcomes.weight
        self.outcomes = None
        if config.outcomes.weight:
            self.outcomes = self._outcomes(dim, config.outcomes.hidden)
            tokens += TOKENS
        form = InterleavedTowers if config.interleave else SeparateTowers
        self.towers: Towers = form(config, tokens)
        # From 0, so that the trunk starts on plain tokens and opens to the towers as they learn (ours).
        skip = config.skip and bool(config.layers)
        self.opening = nn.Parameter(torch.zeros(dim)) if skip else None
        first, last = self.towers.widths[0], self.towers.widths[-1]
        width = (last + self.towers.summary_tokens + (first if skip else 0)) * dim
        self.trunk = Trunk(config, width, domains, len(self.tasks))
        self.heads = TaskHeads(config.mlp[-1], domains, self.tasks, config.surfaces.heads, config.conditional)
        self.places = {
            group: [
                place for place, name in enumerate(self.features) if self.schema.sparse[name].group == group
            ]
            for group in ("user", "item")
        }
        self.tap_widths = self._tap_widths(config, width)

    def _outcomes(self, dim: int, hidden: int) -> EventOutcomes:
        windows = [self.schema.tasks[task].window_ms for task in self.tasks]
        domains, schema_tasks = len(self.schema.domains), len(self.schema.tasks)
        return EventOutcomes(dim, hidden, domains, self.tasks, self.task_index, windows, schema_tasks)

    def _tap_widths(self, config: GEMConfig, cross: int) -> dict[str, int]:
        user = len(self.places["user"]) + bool(self.history_length)
        item = len(self.places["item"]) + len(self.content)
        widths = {"embedding": len(self.features), "user": user, "item": item}
        widths |= {f"interaction_{n}": tokens for n, tokens in enumerate(self.towers.widths[1:], start=1)}
        taps = {name: tokens * config.dim for name, tokens in widths.items() if tokens}
        return taps | {"cross": cross, "penultimate": self.trunk.width}

    def forward(self, batch: Batch) -> Output:
        past = batch.history if self.history_length else None
        embedded = self.tables(batch.sparse, None if past is None else past.item)
        rows, own = embedded.features, [embedded.features, self.domain(batch.domain).unsqueeze(1)]
        if self.dense is not None:
            own.append(self.dense(batch.dense).unsqueeze(1))
        content = [] if self.modalities is None else [self.modalities.item_tokens(batch.content)]
        x = torch.cat(own + content, dim=1)
        history = own_loss = None
        if past is not None and embedded.events is not None:
            history = self._history(batch, past, embedded.events, rows[:, self.item_place])
            if self.interest is not None:
                x = torch.cat([x, self.interest(history.tokens, history.offsets, history.target)], dim=1)
            if self.outcomes is not None:
                told = self.outcomes(past, embedded.events, history.target, batch.domain)
                x = torch.cat([x, told], dim=1)
                if self.training:
                    own_loss = self.outcome_weight * self.outcomes.loss(
                        past, embedded.events, batch.timestamp
                    )
        outputs, summary = self.towers(x, history)
        last = [outputs[-1]] if self.opening is None else [outputs[-1] * self.opening, outputs[0]]
        cross = torch.cat(last + summary, dim=1)
        hidden = self.trunk(cross.flatten(1), batch.domain)
        taps = {
            "embedding": [rows],
            "user": [rows[:, self.places["user"]], *self._mean(history)],
            "item": [rows[:, self.places["item"]], *content],
            "cross": [cross],
            "penultimate": [hidden],
        }
        taps |= {f"interaction_{n}": [out] for n, out in enumerate(outputs[1:], start=1)}
        flat = {name: _flat(parts) for name, parts in taps.items() if name in self.tap_widths}
        return Output(self.heads(hidden, batch.domain), flat, own_loss)

    def _history(self, batch: Batch, past: Events, items: Tensor, target: Tensor) -> History:
        content = []
        for name in self.content:
            found = batch.content[name]
            assert self.modalities is not None and found.events is not None and found.events_known is not None
            content.append(self.modalities(found.events, found.events_known, name))
        return History(self.events(past, items, batch.timestamp, content), past.offsets, target)

    def _mean(self, history: History | None) -> list[Tensor]:
        return [] if history is None else [mean_events(history.tokens, history.offsets).unsqueeze(1)]

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        self.heads.set_base_rates(rates)
        if self.outcomes is not None:
            self.outcomes.set_base_rates(rates)


class Trunk(nn.Module):
    """From the towers to the heads: an MLP shared by all surfaces, or experts mixed for each surface and task.

    Args:
        config: settings of GEM.
        width: of the input.
        domains: number of surfaces.
        tasks: k.

    Attributes:
        width: of the output, flat.
    """

    def __init__(self, config: GEMConfig, width: int, domains: int, tasks: int):
        super().__init__()
        own = config.surfaces
        self.norm = SurfaceNorm(domains, width) if own.norm else None
        self.experts = self.shared = None
        if own.experts:
            self.experts = SurfaceExperts(domains, tasks, width, config.mlp, own.experts, config.dropout)
        else:
            self.shared = nn.Sequential()
            for narrow, wide in pairwise([width, *config.mlp]):
                self.shared.extend([nn.Linear(narrow, wide), nn.ReLU(), nn.Dropout(config.dropout)])
        self.width = config.mlp[-1] * (tasks if own.experts else 1)

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """Args: x [B, width], domain int64 [B]. Returns: [B, W], or [B, k, W] with experts."""
        if self.norm is not None:
            x = self.norm(x, domain)
        if self.experts is not None:
            return self.experts(x, domain)
        assert self.shared is not None
        return self.shared(x)


def _dense_token(features: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, dim), nn.ReLU(), nn.Linear(dim, dim))


def _flat(parts: list[Tensor]) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).flatten(1)


def build(config: GEMConfig, **common: Any) -> GEM:
    """Builder for the registry; `common` are the other arguments of `GEM`."""
    return GEM(config, **common)
