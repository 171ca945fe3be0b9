"""GEM, the teacher (Meta engineering blog, 2025-11-10), first form: split towers, one trunk, many surfaces.

The sequence tower reads the user's past on every surface; its summaries become tokens of the Wukong tower beside the
features. The trunk is shared, every surface has its own bias per task.

Shape letters: B examples, F sparse features, N dense features, d width, T events, k tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.inputs import check_inputs
from distill.protocols import Architecture, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded
from kernels.embedding import EmbeddingTables
from teachers.config import GEMConfig
from teachers.sequence import EventEncoder, SequenceLayer, Summaries
from teachers.wukong import WukongLayer


class GEM(Architecture):
    """See the module's text.

    Args:
        config: sizes.
        schema: the data set's schema.
        tasks: tasks to predict.
        features: sparse features to read; the schema's item feature is needed when there is a history.
        dense_features: dense features to read.
        seed: of the initial values.
        table_learning_rate: of the fused tables.

    Raises:
        UserError: a name that the schema lacks, or a history without the item feature.
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
    ):
        super().__init__()
        check_inputs(schema, tasks, features, dense_features, config.history_length)
        self.schema, self.tasks = schema, tasks
        self.features, self.dense_features = features, dense_features
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
        tokens = len(self.features) + 1
        self.domain = nn.Embedding(len(self.schema.domains), config.dim)
        nn.init.normal_(self.domain.weight, std=0.1)
        if self.dense_features:
            self.dense = nn.Sequential(
                nn.Linear(len(self.dense_features), config.dim), nn.ReLU(), nn.Linear(config.dim, config.dim)
            )
            tokens += 1
        if config.history_length:
            self.events = EventEncoder(config.dim, len(self.schema.domains), len(self.schema.tasks))
            self.sequence = nn.ModuleList(
                SequenceLayer(config.dim, config.sequence.heads) for _ in range(config.sequence_layers)
            )
            self.summaries = Summaries(
                config.dim, config.sequence.heads, config.summaries.seeds, config.summaries.recent
            )
            tokens += self.summaries.tokens
        self.interactions = nn.ModuleList()
        for _ in range(config.layers):
            sizes = config.wukong
            layer = WukongLayer(tokens, config.dim, sizes.fm_tokens, sizes.linear_tokens, sizes.rank)
            self.interactions.append(layer)
            tokens = layer.tokens_out
        widths = [tokens * config.dim, *config.mlp]
        self.trunk = nn.Sequential()
        for narrow, wide in zip(widths, widths[1:], strict=False):
            self.trunk.extend([nn.Linear(narrow, wide), nn.ReLU(), nn.Dropout(config.dropout)])
        self.heads = nn.Linear(widths[-1], len(self.tasks), bias=False)
        self.surface_bias = nn.Embedding(len(self.schema.domains), len(self.tasks))
        nn.init.zeros_(self.surface_bias.weight)
        self.tap_widths = {"interaction": widths[0], "penultimate": widths[-1]}

    def forward(self, batch: Batch) -> Output:
        history = batch.history if self.history_length else None
        embedded = self.tables(batch.sparse, None if history is None else history.item)
        tokens = [embedded.features, self.domain(batch.domain).unsqueeze(1)]
        if self.dense_features:
            tokens.append(self.dense(batch.dense).unsqueeze(1))
        if history is not None:
            events = self.events(history, embedded.events, batch.timestamp)
            for layer in self.sequence:
                events = layer(events, history.offsets)
            target = embedded.features[:, self.item_place]
            tokens.append(self.summaries(events, history.offsets, target))
        # No norm here: it would blow up the rows of ids that were hardly ever trained.
        crossed = torch.cat(tokens, dim=1)
        for layer in self.interactions:
            crossed = layer(crossed)
        interaction = crossed.flatten(1)
        penultimate = self.trunk(interaction)
        logits = self.heads(penultimate) + self.surface_bias(batch.domain)
        return Output(logits, {"interaction": interaction, "penultimate": penultimate})

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for place, task in enumerate(self.tasks):
                rate = rates[task].clamp(1e-4, 1 - 1e-4)
                known = rate.isfinite()
                bias = torch.where(known, rate.logit(), rate[known].mean().logit() if known.any() else 0.0)
                self.surface_bias.weight[:, place] = bias.float()


def build(config: GEMConfig, **common: Any) -> GEM:
    """Builder for the registry; `common` are the other arguments of `GEM`."""
    return GEM(config, **common)
