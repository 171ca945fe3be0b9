"""Settings of the teachers, free of torch."""

from dataclasses import dataclass, field

from distill.errors import UserError

_LEAST = {
    "history_length": 0,
    "sequence_layers": 0,
    "heads": 1,
    "seeds": 0,
    "recent": 0,
    "layers": 1,
    "fm_tokens": 1,
    "linear_tokens": 1,
    "rank": 1,
}


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

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"options.{name}: got {getattr(self, name)}, allowed: at least {least}")
        if self.dim < 4 or self.dim % 4 or self.dim % self.heads:
            raise UserError(
                f"options.dim: got {self.dim}, allowed: a multiple of 4 (the tables' rows are read in fours) and of "
                f"options.heads, {self.heads}"
            )
        if not self.mlp or any(width < 1 for width in self.mlp):
            raise UserError(
                f"options.mlp: got {list(self.mlp)}, allowed: at least one width, each at least 1"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"options.dropout: got {self.dropout}, allowed: 0 or more, less than 1")
