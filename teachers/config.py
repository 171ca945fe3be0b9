"""Settings of the teachers, free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from distill.config import OMITTED
from distill.errors import UserError


@dataclass
class SequenceConfig:
    """How the history is read.

    Attributes:
        layers: self-attention layers over the history; an interleaved model has one per layer of the model instead.
        heads: attention heads, dividing `dim`.
        merge: what makes one token of an event's parts (item, surface, outcome, age, content): sum, or mask, a MaskNet
            that weighs the parts before it compresses them (InterFormer).
        rotary: rotary positions in self-attention.
        causal: an event attends to earlier ones only; all of them lie before the example either way.
        window: an event attends to the events closer than this; 0 for all.
        pool_early: control: the mean of the events is all that the rest of the model sees; no attention.
    """

    layers: int = 0
    heads: int = 2
    merge: Literal["sum", "mask"] = "sum"
    rotary: bool = False
    causal: bool = True
    window: int = 0
    pool_early: bool = False

    def __post_init__(self) -> None:
        _at_least(self, "sequence", {"layers": 0, "heads": 1, "window": 0})


@dataclass
class PyramidConfig:
    """Long histories: every layer keeps fewer of the newest events, which read all that is below (ours).

    Attributes:
        keep: events kept by each layer of the sequence, falling; empty for no pyramid.
        modules: attention modules side by side in a layer, each over its own part of the events below.
    """

    keep: list[int] = field(default_factory=list)
    modules: int = 2

    def __post_init__(self) -> None:
        _at_least(self, "pyramid", {"modules": 1})
        falling = all(later <= earlier for earlier, later in zip(self.keep, self.keep[1:], strict=False))
        if any(kept < 1 for kept in self.keep) or not falling:
            raise UserError(
                f"options.pyramid.keep: got {list(self.keep)}, allowed: numbers of events of at least 1, none larger "
                "than the one before"
            )


@dataclass
class SummaryConfig:
    """The tokens that tell the other tower about the history.

    Attributes:
        target: attention from the item at hand, one token.
        cls_tokens: tokens put behind the events, made of the features; needs `interleave`.
        seeds: learned queries (PMA), one token each.
        recent: last events, one token each.
        features: tokens that tell the history about the features; needs `interleave`.
        interests: attention from the item at hand without a softmax, which also tells how much of the history matches:
            one token each, and one for the sum of all events; 0 for none.
        gates: sigmoid gates on the summaries of both towers (InterFormer).
    """

    target: bool = True
    cls_tokens: int = 0
    seeds: int = 0
    recent: int = 2
    features: int = 4
    interests: int = 1
    gates: bool = True

    def __post_init__(self) -> None:
        _at_least(
            self, "summaries", {"cls_tokens": 0, "seeds": 0, "recent": 0, "interests": 0, "features": 1}
        )
        if self.cls_tokens > self.features:
            raise UserError(
                f"options.summaries.cls_tokens: got {self.cls_tokens}, allowed: at most options.summaries.features, "
                f"{self.features}, of which they are made"
            )


@dataclass
class WukongConfig:
    """One layer of the tower over the features.

    Attributes:
        fm_tokens: tokens it gets from its factorization machine (n_F).
        linear_tokens: tokens it gets from linear compression (n_L).
        rank: columns k of the low-rank Y.
        attentive: Y depends on the example, through an MLP over compressed tokens.
        cross_layer: a layer also attends to the outputs of all layers below, through a gate that starts at 0 (ours).
        norm: the paper's LayerNorms; they lift what is hardly trained to the size of all else.
    """

    fm_tokens: int = 8
    linear_tokens: int = 8
    rank: int = 8
    attentive: bool = False
    cross_layer: bool = False
    norm: bool = False

    def __post_init__(self) -> None:
        _at_least(self, "wukong", {"fm_tokens": 1, "linear_tokens": 1, "rank": 1})


@dataclass
class SurfaceConfig:
    """What is a surface's own; the rest is shared by all.

    Attributes:
        norm: scale and shift of the trunk's input, per surface.
        experts: expert networks in place of the trunk, mixed by a gate per surface and task; 0 for one shared trunk.
        heads: a head per surface and task beside the shared head.
    """

    norm: bool = False
    experts: int = 0
    heads: bool = False

    def __post_init__(self) -> None:
        _at_least(self, "surfaces", {"experts": 0})


@dataclass
class OutcomeConfig:
    """Predicting also the tasks of the history's events, each from the events before it (ours,
    `teachers.event_outcomes`).

    Attributes:
        weight: of this loss for each event, beside 1 for the example's own labels; 0, and there is neither this loss
            nor its two tokens. The studies here begin with 0.1.
        hidden: width of the hidden layer that predicts them.
    """

    weight: float = 0.0
    hidden: int = 32

    def __post_init__(self) -> None:
        _at_least(self, "outcomes", {"weight": 0, "hidden": 1})


@dataclass
class GEMConfig:
    """GEM: a sequence tower over the history and a Wukong tower over features and the history's summaries.

    Attributes:
        dim: width d of every token; a multiple of 4 and of `sequence.heads`.
        history_length: last events of the user that are read; 0 leaves the sequence tower out.
        layers: Wukong layers; 0 hands the tokens to the trunk as they are.
        interleave: InterFormer: the towers exchange summaries in every layer; otherwise the history is summarised once.
        skip: the features' tokens reach the trunk beside what the towers made of them, for which a gate opens from 0.
        mlp: widths of the trunk after the towers; the last one is the penultimate tap.
        dropout: in the trunk.
        conditional: task to the task without which it cannot happen, such as conversion to click: its head predicts
            the probability given that one, and the product is trained over all rows.
        checkpointing: recompute the layers in the backward pass instead of keeping what they need: less memory, slower.
        sequence: how the history is read.
        pyramid: for long histories.
        summaries: what the towers tell each other.
        wukong: a layer of the tower over the features.
        surfaces: what is a surface's own.
        outcomes: predict also what came of each event of the history (clicked, bought...) from the events before it:
            many more labels to learn from, and two tokens for the other tower. Off unless `weight` is set.
    """

    dim: int = 32
    history_length: int = 100
    layers: int = 0
    interleave: bool = False
    skip: bool = True
    mlp: list[int] = field(default_factory=lambda: [256, 128])
    dropout: float = 0.0
    conditional: dict[str, str] = field(default_factory=dict)
    checkpointing: bool = False
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    summaries: SummaryConfig = field(default_factory=SummaryConfig)
    wukong: WukongConfig = field(default_factory=WukongConfig)
    surfaces: SurfaceConfig = field(default_factory=SurfaceConfig)
    outcomes: OutcomeConfig = field(default_factory=OutcomeConfig, metadata=OMITTED)

    @property
    def sequence_layers(self) -> int:
        """Layers over the history."""
        return self.layers if self.interleave else self.sequence.layers

    def __post_init__(self) -> None:
        _at_least(self, "", {"history_length": 0, "layers": 0})
        heads = self.sequence.heads
        if self.dim < 4 or self.dim % 4 or self.dim % heads:
            raise UserError(
                f"options.dim: got {self.dim}, allowed: a positive multiple of 4 (the tables' rows are read in fours) "
                f"and of options.sequence.heads, {heads}"
            )
        if not self.mlp or any(width < 1 for width in self.mlp):
            raise UserError(
                f"options.mlp: got {list(self.mlp)}, allowed: at least one width, each at least 1"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"options.dropout: got {self.dropout}, allowed: 0 or more, less than 1")
        _check_history(self)


def _check_history(config: GEMConfig) -> None:
    """Settings that fit each other and the number of layers."""
    keep, layers, sequence = config.pyramid.keep, config.sequence_layers, config.sequence
    if config.interleave and not (config.history_length and config.layers):
        raise UserError(
            f"options.interleave: got true with history_length {config.history_length} and layers {config.layers}, "
            "allowed: at least 1 of both"
        )
    if config.outcomes.weight and not config.history_length:
        raise UserError(
            f"options.outcomes.weight: got {config.outcomes.weight} with history_length 0, allowed: 0, since there are "
            "no events"
        )
    if config.summaries.cls_tokens and not config.interleave:
        raise UserError(
            f"options.summaries.cls_tokens: got {config.summaries.cls_tokens}, allowed: 0 without options.interleave"
        )
    if keep and len(keep) != layers:
        raise UserError(
            f"options.pyramid.keep: got {list(keep)}, allowed: one number for each of the {layers} layers over the "
            "history"
        )
    if sequence.rotary and config.dim // sequence.heads % 2:
        raise UserError(
            f"options.sequence.rotary: got true with {config.dim // sequence.heads} numbers per head, allowed: an even "
            "number (options.dim / options.sequence.heads)"
        )
    if sequence.pool_early and (config.interleave or keep):
        raise UserError("options.sequence.pool_early: got true, allowed: false with interleave or a pyramid")


def _at_least(config: object, section: str, least: Mapping[str, int]) -> None:
    prefix = f"options.{section}." if section else "options."
    for name, number in least.items():
        if getattr(config, name) < number:
            raise UserError(f"{prefix}{name}: got {getattr(config, name)}, allowed: at least {number}")
