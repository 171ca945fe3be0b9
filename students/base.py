"""What all students share: tables, pooled history, serving heads, base rates.

A user's own architecture may start here as well (experiments/examples/my_student.py).

Shape letters: B examples, F fields (sparse features, with a pooled history one more, and those that channels give), D
embedding dim, N dense features, T events of the whole batch, k tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.batch import Batch, Events
from distill.errors import UserError
from distill.inputs import check_inputs
from distill.losses import base_rate_logits, start_bias
from distill.protocols import Architecture, Output
from distill.schema import FeatureSchema
from kernels.embedding import Embedded, EmbeddingTables
from kernels.segments import Segments, pool, pool_mean

POOLINGS = {"mean": pool_mean, "sum": pool}


class Student(Architecture):
    """Base of the students. A subclass builds its trunk, calls `add_heads` and writes `forward`.

    Args:
        schema: the data set's schema.
        tasks: tasks to predict; a shared trunk and one linear serving head for each.
        features: sparse features to read.
        dense_features: dense features to read.
        seed: of the initial values.
        table_learning_rate: of the fused tables.
        dim: D, a multiple of 4.
        extra_columns: columns that a table's row holds beside the embedding, a multiple of 4; `fields`
            returns them too.
        history_length: last events of the user to ask for; 0 for none.
        history_pooling: mean or sum: `fields` gets the pooled history as one more field. None: the subclass
            reads the events itself.
        extra_fields: how many fields channels will give it, through `inputs` and `event_inputs`.
        extra_history: how many of the user's last events channels read, through `event_inputs`.

    Raises:
        UserError: a name that the schema lacks, or an option out of range.
    """

    def __init__(
        self,
        *,
        schema: FeatureSchema,
        tasks: tuple[str, ...],
        features: tuple[str, ...],
        dense_features: tuple[str, ...],
        seed: int,
        table_learning_rate: float,
        dim: int = 16,
        extra_columns: int = 0,
        history_length: int = 0,
        history_pooling: str | None = "mean",
        extra_fields: int = 0,
        extra_history: int = 0,
    ):
        super().__init__()
        check_inputs(schema, tasks, features, dense_features, history_length)
        if history_pooling is not None and history_pooling not in POOLINGS:
            raise UserError(
                f"options.history_pooling: got '{history_pooling}', allowed: {', '.join(POOLINGS)}"
            )
        self.schema, self.tasks = schema, tuple(tasks)
        self.features, self.dense_features = tuple(features), tuple(dense_features)
        self.seed = seed
        self.own_history = history_length
        self.history_length = max(history_length, extra_history)
        self.history_pooling = history_pooling if history_length else None
        self.dim = dim
        self.n_fields = len(self.features) + (self.history_pooling is not None) + extra_fields
        self.extra_fields = extra_fields
        self.inputs, self.event_inputs = nn.ModuleDict(), nn.ModuleDict()
        if extra_fields and schema.item_feature not in self.features:
            raise UserError(
                f"features: got {', '.join(self.features)}, allowed with a channel that gives fields: also the item, "
                f"'{schema.item_feature}'"
            )
        self.tables = EmbeddingTables(
            {name: schema.sparse[name].size for name in self.features},
            dim + extra_columns,
            seed=seed,
            learning_rate=table_learning_rate,
            history_feature=schema.item_feature if self.history_length else None,
        )

    @property
    def input_width(self) -> int:
        """Width of `flat_input`: F * D + N."""
        return self.n_fields * self.dim + len(self.dense_features)

    def add_heads(self, width: int) -> None:
        """Make the serving heads, whose input is the tap `penultimate`.

        Args:
            width: of that input.
        """
        self.heads = nn.Linear(width, len(self.tasks))
        self.tap_widths = {"embedding": self.n_fields * self.dim, "penultimate": width}

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """Start the serving heads' biases at the logit of the rate.

        Args:
            rates: task to float64 [number of domains], NaN for those absent. A student of one vertical sees
                one number; where several are given, their plain mean is taken. A task without any keeps its
                bias.
        """
        start_bias(self.heads.bias, base_rate_logits(rates, self.tasks))

    def look_up(self, batch: Batch) -> Embedded:
        """Rows of the features, [B, F, D + extra columns], and with a history of its events, [T, D + ...]."""
        if not self.history_length:
            return self.tables(batch.sparse)
        assert batch.history is not None, "the batch carries no history"
        return self.tables(batch.sparse, batch.history.item)

    def fields(self, batch: Batch) -> Tensor:
        """Rows of the features, of the pooled history and of what channels give, [B, F, D + extra columns]."""
        embedded = self.look_up(batch)
        parts = [embedded.features]
        if self.history_pooling is not None:
            history, events = self._last_events(batch, embedded)
            segments = Segments.of(history.offsets, len(events))
            pooled = POOLINGS[self.history_pooling](events, segments)
            # A shared history is pooled once.
            pooled = pooled if batch.shared is None else pooled.index_select(0, batch.shared.of)
            parts.append(pooled.unsqueeze(1))
        parts += self.given_fields(batch, embedded)
        return torch.cat(parts, dim=1) if len(parts) > 1 else embedded.features

    def own_events(self, batch: Batch, embedded: Embedded) -> tuple[Events, Tensor]:
        """The history that the student itself reads, and its rows [T, D + extra columns].

        Args:
            batch: with a history, which is longer where a channel asks for more events. Where examples share one, each
                is given its own copy.
            embedded: what `look_up` gave.
        """
        history, rows = self._last_events(batch, embedded)
        return (history, rows) if batch.shared is None else history.shared(batch.shared, rows)

    def _last_events(self, batch: Batch, embedded: Embedded) -> tuple[Events, Tensor]:
        """As `own_events`, but a history that several examples share stands there once."""
        history, rows = batch.history, embedded.events
        assert history is not None and rows is not None
        return (
            (history, rows)
            if self.own_history == self.history_length
            else history.last(self.own_history, rows)
        )

    def given_fields(self, batch: Batch, embedded: Embedded) -> list[Tensor]:
        """What channels give, one [B, n, D + extra columns] each; the extra columns hold 0.

        Args:
            batch: with what the channels need.
            embedded: what `look_up` gave.
        """
        if not self.extra_fields:
            return []
        features, rows = embedded.features, embedded.events
        item = features[:, self.features.index(self.schema.item_feature), : self.dim]
        given = [module(batch, item) for module in self.inputs.values()]
        if rows is not None:
            if self.event_inputs and batch.history is not None and batch.shared is not None:
                history, rows = batch.history.shared(batch.shared, rows)
                batch = replace(batch, history=history, shared=None)
            given += [module(batch, item, rows[:, : self.dim]) for module in self.event_inputs.values()]
        got = sum(fields.size(1) for fields in given)
        assert got == self.extra_fields, f"got {got} fields from channels, expected {self.extra_fields}"
        extra_columns = features.size(2) - self.dim
        return [functional.pad(fields, (0, extra_columns)) for fields in given] if extra_columns else given

    def flat_input(self, fields: Tensor, batch: Batch) -> Tensor:
        """Fields and dense features side by side, [B, F * D + N]."""
        flat = fields.flatten(1)
        return torch.cat([flat, batch.dense], dim=1) if self.dense_features else flat

    def output(self, fields: Tensor, penultimate: Tensor) -> Output:
        """Serving heads on the penultimate tap, and the taps every student has.

        Logits are computed in the heads' own precision, under autocast too: a loss is not computed from 8 bits.
        """
        taps = {"embedding": fields.flatten(1), "penultimate": penultimate}
        if not torch.is_autocast_enabled(penultimate.device.type):
            return Output(self.heads(penultimate), taps)
        with torch.autocast(penultimate.device.type, enabled=False):
            return Output(self.heads(penultimate.to(self.heads.weight.dtype)), taps)
