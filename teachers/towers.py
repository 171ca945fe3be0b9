"""The two towers of GEM put together from their blocks: side by side, or interleaved (InterFormer).

Shape letters: B examples, n tokens of the features, T events of all histories (jagged), d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from teachers.config import GEMConfig
from teachers.cross_layer import CrossLayerAttention
from teachers.interformer import FeatureSummary, InterFormerLayer, SequenceSummary
from teachers.pyramid import PyramidLayer
from teachers.sequence import SequenceLayer, mean_events
from teachers.wukong import WukongLayer


@dataclass(frozen=True)
class History:
    """A history on its way through the layers.

    Attributes:
        tokens: [T, d].
        offsets: int64 [B + 1].
        target: token of the item at hand [B, d].
    """

    tokens: Tensor
    offsets: Tensor
    target: Tensor


class Towers(nn.Module, ABC):
    """Base of both forms: a stack of Wukong layers, with cross-layer attention if asked for.

    Attributes:
        widths: tokens before the first layer, and after each.
        summary_tokens: tokens about the history that come out beside those of the last layer.
    """

    widths: list[int]
    summary_tokens: int

    def __init__(self, config: GEMConfig):
        super().__init__()
        self.checkpointing = config.checkpointing
        self.cross = nn.ModuleList(
            CrossLayerAttention(config.dim, config.sequence.heads)
            for _ in range(config.layers if config.wukong.cross_layer else 0)
        )

    @abstractmethod
    def forward(self, x: Tensor, history: History | None) -> tuple[list[Tensor], list[Tensor]]:
        """What the layers make of features and history.

        Args:
            x: features [B, n, d].
            history: None without one.

        Returns:
            Tokens [B, ., d] before the first layer and after each; and in a list of at most one, those about the
            history that are not among them.
        """

    def _run(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """A block, kept or computed again in the backward pass."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _crossed(self, layer: int, x: Tensor, below: list[Tensor]) -> Tensor:
        return self.cross[layer](x, torch.cat(below, dim=1)) if self.cross else x


class SeparateTowers(Towers):
    """The history is read first; what it says in short joins the features once, before the first Wukong layer.

    With a pyramid, every level is summarised: a skip from each to the output (ours).

    Args:
        config: settings of GEM.
        tokens: n.
    """

    def __init__(self, config: GEMConfig, tokens: int):
        super().__init__(config)
        self.pool_early = bool(config.history_length) and config.sequence.pool_early
        self.sequence, self.summaries = nn.ModuleList(), nn.ModuleList()
        if self.pool_early:
            tokens += 1
        elif config.history_length:
            self.sequence.extend(_sequence_layer(config, place) for place in range(config.sequence_layers))
            summaries = [_sequence_summary(config) for _ in range(len(config.pyramid.keep) or 1)]
            self.summaries.extend(summaries)
            tokens += sum(summary.tokens for summary in summaries)
        self.interactions, self.widths, self.summary_tokens = nn.ModuleList(), [tokens], 0
        for _ in range(config.layers):
            self.interactions.append(interaction := _wukong(config, self.widths[-1]))
            self.widths.append(interaction.tokens_out)

    def forward(self, x: Tensor, history: History | None) -> tuple[list[Tensor], list[Tensor]]:
        """See `Towers`."""
        outputs = [x if history is None else torch.cat([x, *self._read(history)], dim=1)]
        for place, interaction in enumerate(self.interactions):
            crossed = self._run(interaction, outputs[-1])
            outputs.append(self._crossed(place, crossed, outputs))
        return outputs, []

    def _read(self, history: History) -> list[Tensor]:
        """Summaries of the last levels, as many as there are; of the events themselves without a layer."""
        if self.pool_early:
            return [mean_events(history.tokens, history.offsets).unsqueeze(1)]
        levels = [(history.tokens, history.offsets)]
        for layer in self.sequence:
            levels.append(self._run(layer, *levels[-1]))
        last = levels[-len(self.summaries) :]
        return [
            self._run(summary, *level, history.target)
            for summary, level in zip(self.summaries, last, strict=True)
        ]


class InterleavedTowers(Towers):
    """InterFormer: in every layer each tower is told what the other one knows; both summaries reach the trunk.

    Args:
        config: settings of GEM.
        tokens: n.
    """

    def __init__(self, config: GEMConfig, tokens: int):
        super().__init__(config)
        summaries = config.summaries
        self.layers, self.widths = nn.ModuleList(), [tokens]
        for place in range(config.layers):
            history = _sequence_summary(config)
            tokens = self.widths[-1]
            interaction = _wukong(config, tokens + history.tokens)
            features = FeatureSummary(tokens, config.summaries.features, config.dim, summaries.gates)
            self.layers.append(
                InterFormerLayer(features, history, interaction, _sequence_layer(config, place), place == 0)
            )
            self.widths.append(interaction.tokens_out)
        self.last = _sequence_summary(config)
        self.summary_tokens = self.last.tokens

    def forward(self, x: Tensor, history: History | None) -> tuple[list[Tensor], list[Tensor]]:
        """See `Towers`."""
        assert history is not None, "interleaved towers without a history"
        tokens, offsets, outputs = history.tokens, history.offsets, [x]
        for place, layer in enumerate(self.layers):
            crossed, tokens, offsets = self._run(layer, outputs[-1], tokens, offsets, history.target)
            outputs.append(self._crossed(place, crossed, outputs))
        return outputs, [self._run(self.last, tokens, offsets, history.target)]


def _wukong(config: GEMConfig, tokens: int) -> WukongLayer:
    sizes = config.wukong
    return WukongLayer(
        tokens, config.dim, sizes.fm_tokens, sizes.linear_tokens, sizes.rank, sizes.attentive, sizes.norm
    )


def _sequence_layer(config: GEMConfig, place: int) -> nn.Module:
    """Layer number `place` over the history: a level of the pyramid if there is one."""
    settings, keep = config.sequence, config.pyramid.keep
    if keep:
        kept = keep[place] + config.summaries.cls_tokens  # which are the newest tokens, and no events
        return PyramidLayer(config.dim, settings.heads, kept, config.pyramid.modules, settings.rotary)
    return SequenceLayer(config.dim, settings.heads, settings.causal, settings.window, settings.rotary)


def _sequence_summary(config: GEMConfig) -> SequenceSummary:
    settings = config.summaries
    return SequenceSummary(
        config.dim,
        config.sequence.heads,
        settings.cls_tokens,
        settings.seeds,
        settings.recent,
        settings.target,
        settings.gates,
    )
