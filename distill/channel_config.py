"""Settings of the channels that have no parameters. Free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from distill.config import OMITTED
from distill.errors import UserError

DistillationLoss = Literal["bce", "mse_logit", "mse_probability", "pairwise", "listwise"]
"""The kinds of `distill.distillation`."""

OF_PROBABILITIES = ("bce", "mse_probability")
"""Those that alpha can scale."""

Level = Literal["target", "labels"]
"""Who decides the level of the serving head (`distill.levels`)."""

RANKING = ("pairwise", "listwise")
"""Those that say nothing of the level."""


@dataclass
class SingleConfig:
    """The control of the auxiliary head: the same soft labels on the serving head itself.

    Attributes:
        weight: w, factor of the distillation loss; 0 or more.
        loss: bce, soft cross-entropy; mse_logit or mse_probability, squared error of logits or probabilities. The
            rankings pairwise and listwise are refused here: they say nothing of the level, and on the serving head they
            cost calibration.
        alpha: factor on the teacher's probability, clipped at 1; more than 0; 1 for mse_logit. Look at the logged
            clipped share.
        task_weights: factor of a task's loss by its name; 1 for tasks not named.
        other_surfaces: share of the other surfaces' rows that it also learns from, without their labels, from 0 to 1.
        target: teacher; or labels, those of the other surfaces as well: the control, a student trained on the labels of
            all surfaces, that says how much of a gain is the teacher's. `loss` and `alpha` say nothing then.
        level: target, the serving head takes over the level of what it learns from; or labels, those of the student's
            own rows alone decide it, and the target teaches how the rows of a surface differ.
    """

    weight: float = 1.0
    loss: DistillationLoss = "bce"
    alpha: float = 1.0
    task_weights: dict[str, float] = field(default_factory=dict)
    other_surfaces: float = 0.0
    target: Literal["teacher", "labels"] = "teacher"
    level: Level = field(default="target", metadata=OMITTED)

    def __post_init__(self) -> None:
        self.check("single")

    def check(self, channel: str) -> None:
        """Refuse what no loss on the serving head can have.

        Raises:
            UserError: naming the field of the channel.
        """
        check_distillation(self.loss, self.weight, self.alpha, self.task_weights, channel)
        check_other_surfaces(self.other_surfaces, channel)
        if self.loss in RANKING:
            raise UserError(
                f"{channel}.loss: got '{self.loss}', allowed: bce, mse_logit, mse_probability. A ranking loss says "
                "nothing of the level and costs the serving head its calibration; put it on an auxiliary head, `ah`"
            )


@dataclass
class PrivilegedFeaturesConfig(SingleConfig):
    """Soft labels on the serving head, of a teacher that reads what the student lacks (PFD).

    Attributes:
        warmup_examples: examples that the student trains on before the first distillation loss; 0 or more. A batch that
            begins before that many have been seen still goes without.
    """

    warmup_examples: int = 1000

    def __post_init__(self) -> None:
        self.check("pfd")
        if self.target == "labels":
            raise UserError("pfd.target: got 'labels', allowed: teacher. The control with labels is `single`")
        if self.warmup_examples < 0:
            raise UserError(f"pfd.warmup_examples: got {self.warmup_examples}, allowed: 0 or more")


def check_distillation(
    loss: DistillationLoss, weight: float, alpha: float, task_weights: Mapping[str, float], channel: str
) -> None:
    """Refuse settings that no distillation loss can have.

    Raises:
        UserError: naming the field of the channel.
    """
    check_soft_labels(weight, alpha, channel)
    if loss not in OF_PROBABILITIES and alpha != 1:
        raise UserError(
            f"{channel}.alpha: got {alpha}, allowed: 1 with the loss '{loss}', which reads logits; alpha scales "
            f"probabilities ({', '.join(OF_PROBABILITIES)})"
        )
    if any(of_task < 0 for of_task in task_weights.values()):
        raise UserError(f"{channel}.task_weights: got {dict(task_weights)}, allowed: 0 or more")


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


def check_other_surfaces(share: float, channel: str) -> None:
    """Refuse what is no share of the other surfaces' rows.

    Raises:
        UserError: naming the field of the channel.
    """
    if not 0 <= share <= 1:
        raise UserError(
            f"{channel}.other_surfaces: got {share}, allowed: from 0, none of their rows, to 1, all"
        )
