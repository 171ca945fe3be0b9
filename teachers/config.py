"""Settings of the teachers, free of torch."""

from dataclasses import dataclass, field


@dataclass
class GEMConfig:
    """GEM, first form: a sequence tower over the history, a Wukong tower over features and the history's summaries.

    Attributes:
        dim: width d of every token; a multiple of 4 and of `heads`.
        history_length: last events of the user that are read; 0 leaves the sequence tower out.
        sequence_layers: self-attention layers over the history.
        heads: attention heads.
        seeds: learned queries that summarise the history (PMA).
        recent: last events that enter as tokens of their own.
        layers: Wukong layers.
        fm_tokens: tokens a Wukong layer gets from its factorization machine (n_F).
        linear_tokens: tokens a Wukong layer gets from linear compression (n_L).
        rank: columns k of the low-rank Y.
        mlp: widths of the trunk after the towers; the last one is the penultimate tap.
        dropout: in the trunk.
    """

    dim: int = 32
    history_length: int = 100
    sequence_layers: int = 1
    heads: int = 2
    seeds: int = 2
    recent: int = 2
    layers: int = 2
    fm_tokens: int = 8
    linear_tokens: int = 8
    rank: int = 8
    mlp: list[int] = field(default_factory=lambda: [256, 128])
    dropout: float = 0.0
