"""Settings of the channels that have parameters. Free of torch."""

from dataclasses import dataclass, field
from typing import Literal

from distill.channel_config import DistillationLoss, check_distillation, check_other_surfaces
from distill.errors import UserError


@dataclass
class AuxiliaryHeadConfig:
    """A second head that learns the teacher's soft labels beside the serving head.

    Attributes:
        weight: w, factor of the distillation loss; 0 or more.
        loss: bce, soft cross-entropy; mse_logit or mse_probability, squared error of logits or probabilities; pairwise
            or listwise, the order of the batch's rows alone, at a memory of the batch squared for pairwise.
        alpha: factor on the teacher's probability, clipped at 1; more than 0; 1 for losses that read logits. Look at
            the logged clipped share.
        beta: factor on the gradient that the head sends into the student; 0 or more, 0 sends none.
        tap: the student's tap that the head reads; embedding with hidden layers makes a tower of its own.
        hidden: widths of the head's hidden layers; none for a linear head.
        task_weights: factor of a task's loss by its name; 1 for tasks not named.
        other_surfaces: share of the other surfaces' rows that it also learns from, without their labels, from 0 to 1;
            what the teacher says of them is worth most to a small surface, and every row costs a row's training.
        target: teacher; or labels, those of the other surfaces as well: the control that says how much of a gain is
            the teacher's and how much the rows'. `loss` and `alpha` say nothing then.
    """

    weight: float = 1.0
    loss: DistillationLoss = "bce"
    alpha: float = 1.0
    beta: float = 1.0
    tap: str = "penultimate"
    hidden: list[int] = field(default_factory=list)
    task_weights: dict[str, float] = field(default_factory=dict)
    other_surfaces: float = 0.0
    target: Literal["teacher", "labels"] = "teacher"

    def __post_init__(self) -> None:
        check_distillation(self.loss, self.weight, self.alpha, self.task_weights, "ah")
        check_other_surfaces(self.other_surfaces, "ah")
        if self.beta < 0:
            raise UserError(f"ah.beta: got {self.beta}, allowed: 0 or more")
        if any(width < 1 for width in self.hidden):
            raise UserError(f"ah.hidden: got {list(self.hidden)}, allowed: widths of at least 1")
