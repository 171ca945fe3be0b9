"""Settings of the channels that hand on what the teacher left behind: its representations. Free of torch."""

from dataclasses import dataclass
from typing import Literal

from distill.errors import UserError

Encoder = Literal["mean", "sum", "din", "target_attention"]


@dataclass
class StoredRepresentationsConfig:
    """The teacher's representations of earlier examples, as fields beside the student's own features.

    Attributes:
        group: user, those of the user's last examples; item, the decayed mean over the item's earlier days; both, a
            field each.
        history_length: of a user's last examples that are read; at least 1.
        dim: width of the teacher's representation, teacher.representation.dim; Matryoshka prefixes allow less.
        encoder: makes one field of a user's many: mean, sum, din (a sum weighed by the item at hand) or
            target_attention.
        heads: of target_attention; a divisor of the student's dim.
        alignment: procrustes, to turn the spaces of all snapshots into that of the first; none, which allows one
            snapshot only.
        codec: how those of users are stored: int8 (1 byte a number) or fp16 (2 bytes); the items' means are fp16.
        half_life_days: after so many days an example weighs half in its item's mean; more than 0.
    """

    group: Literal["user", "item", "both"] = "user"
    history_length: int = 50
    dim: int = 32
    encoder: Encoder = "target_attention"
    heads: int = 2
    alignment: Literal["procrustes", "none"] = "procrustes"
    codec: Literal["int8", "fp16"] = "int8"
    half_life_days: float = 3.0

    def __post_init__(self) -> None:
        check_at_least_one("repr", history_length=self.history_length, dim=self.dim, heads=self.heads)
        if self.half_life_days <= 0:
            raise UserError(f"repr.half_life_days: got {self.half_life_days}, allowed: more than 0")


@dataclass
class RawHistoryConfig:
    """The control of `repr`: the raw items of the user's history in the place of the teacher's representations.

    Attributes:
        history_length: last events of the user that are read; at least 1.
        encoder: as in `repr`: mean, sum, din or target_attention.
        heads: of target_attention; a divisor of the student's dim.
    """

    history_length: int = 50
    encoder: Encoder = "target_attention"
    heads: int = 2

    def __post_init__(self) -> None:
        check_at_least_one("rawid", history_length=self.history_length, heads=self.heads)


@dataclass
class CurrentConfig:
    """The teacher's representation of the example itself as a field: a control, since serving it means running the
    teacher.

    Attributes:
        dim: width of the teacher's representation, teacher.representation.dim; Matryoshka prefixes allow less.
    """

    dim: int = 32

    def __post_init__(self) -> None:
        check_at_least_one("current", dim=self.dim)


@dataclass
class FitNetsConfig:
    """The student's tap learns to foretell the teacher's representation of the example, in training only.

    Attributes:
        weight: w, factor of the hint loss; 0 or more.
        dim: width of the teacher's representation, teacher.representation.dim; Matryoshka prefixes allow less.
        beta: factor on the gradient that the hint sends into the student; 0 or more, 0 sends none.
        tap: the student's tap that foretells it.
    """

    weight: float = 1.0
    dim: int = 32
    beta: float = 1.0
    tap: str = "penultimate"

    def __post_init__(self) -> None:
        check_at_least_one("fitnets", dim=self.dim)
        for name in ("weight", "beta"):
            if getattr(self, name) < 0:
                raise UserError(f"fitnets.{name}: got {getattr(self, name)}, allowed: 0 or more")


def check_at_least_one(channel: str, **values: int) -> None:
    """Refuse sizes below 1.

    Raises:
        UserError: naming the field of the channel.
    """
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{channel}.{name}: got {value}, allowed: at least 1")
