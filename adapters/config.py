"""Settings of the channels that have parameters. Free of torch."""

from dataclasses import dataclass, field

from distill.channel_config import check_soft_labels
from distill.errors import UserError


@dataclass
class AuxiliaryHeadConfig:
    """A second head that learns the teacher's soft labels beside the serving head.

    Attributes:
        weight: w, factor of the distillation loss; 0 or more.
        alpha: factor on the teacher's probability, clipped at 1; more than 0. Look at the logged clipped
            share.
        beta: factor on the gradient that the head sends into the student; 0 or more, 0 sends none.
        tap: the student's tap that the head reads.
        hidden: widths of the head's hidden layers; none for a linear head.
        task_weights: factor of a task's loss by its name; 1 for tasks not named.
    """

    weight: float = 1.0
    alpha: float = 1.0
    beta: float = 1.0
    tap: str = "penultimate"
    hidden: list[int] = field(default_factory=list)
    task_weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_soft_labels(self.weight, self.alpha, "ah")
        if self.beta < 0:
            raise UserError(f"ah.beta: got {self.beta}, allowed: 0 or more")
        if any(width < 1 for width in self.hidden):
            raise UserError(f"ah.hidden: got {list(self.hidden)}, allowed: widths of at least 1")
        if any(weight < 0 for weight in self.task_weights.values()):
            raise UserError(f"ah.task_weights: got {dict(self.task_weights)}, allowed: 0 or more")
