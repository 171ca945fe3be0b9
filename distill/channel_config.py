"""Settings of the channels that have no parameters. Free of torch."""

from dataclasses import dataclass

from distill.errors import UserError


@dataclass
class SingleConfig:
    """The control of the auxiliary head: the same soft labels on the serving head itself.

    Attributes:
        weight: w, factor of the distillation loss; 0 or more.
        alpha: factor on the teacher's probability, clipped at 1; more than 0.
    """

    weight: float = 1.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_soft_labels(self.weight, self.alpha, "single")


def check_soft_labels(weight: float, alpha: float, channel: str) -> None:
    """Refuse weights and scalings that no soft label loss can have.

    Raises:
        UserError: naming the field of the channel.
    """
    if weight < 0:
        raise UserError(f"{channel}.weight: got {weight}, allowed: 0 or more")
    if alpha <= 0:
        raise UserError(
            f"{channel}.alpha: got {alpha}, allowed: more than 0; 1 leaves the teacher's probability as it is"
        )
