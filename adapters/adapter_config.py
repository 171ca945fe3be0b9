"""Settings of the channels that learn their own target from matured labels. Free of torch."""

from dataclasses import dataclass, field
from typing import Literal

from distill.channel_config import check_other_surfaces
from distill.errors import UserError


@dataclass
class LearntTargetConfig:
    """A target learnt from teachers and matured labels, and the head that it is distilled into.

    Attributes:
        weight: factor of the distillation loss; 0 or more. What makes the target learns whatever it is.
        beta: factor on the gradient that the distill head sends into the student; 0 or more, 0 sends none.
        tap: the student's tap that the distill head reads.
        hidden: widths of the distill head's hidden layers; none for a linear head.
        task_weights: factor of a task's distillation loss by its name; 1 for tasks not named.
        layers: widths of the hidden layers of what makes the target; none for a linear one.
        learning_rate: of its own Adam; more than 0.
        surface: it also reads the example's surface; of use to a model of several.
        age: it also reads how old each teacher's snapshot is.
        hour: it also reads the hour of the day (UTC), which the student itself sees only as a feature of the data.
        other_surfaces: share of the other surfaces' rows that the distill head also learns from, from 0 to 1; what
            makes the target learns from none of them.
    """

    weight: float = 1.0
    beta: float = 1.0
    tap: str = "penultimate"
    hidden: list[int] = field(default_factory=list)
    task_weights: dict[str, float] = field(default_factory=dict)
    layers: list[int] = field(default_factory=lambda: [32])
    learning_rate: float = 3e-3
    surface: bool = False
    age: bool = False
    hour: bool = False
    other_surfaces: float = 0.0

    def check(self, channel: str) -> None:
        """Refuse values that no such channel can have.

        Raises:
            UserError: naming the field of the channel.
        """
        for name, value in (("weight", self.weight), ("beta", self.beta)):
            if value < 0:
                raise UserError(f"{channel}.{name}: got {value}, allowed: 0 or more")
        check_other_surfaces(self.other_surfaces, channel)
        if self.learning_rate <= 0:
            raise UserError(f"{channel}.learning_rate: got {self.learning_rate}, allowed: more than 0")
        for name, widths in (("hidden", self.hidden), ("layers", self.layers)):
            if any(width < 1 for width in widths):
                raise UserError(f"{channel}.{name}: got {list(widths)}, allowed: widths of at least 1")
        if any(weight < 0 for weight in self.task_weights.values()):
            raise UserError(f"{channel}.task_weights: got {dict(self.task_weights)}, allowed: 0 or more")


@dataclass
class StudentAdapterConfig(LearntTargetConfig):
    """The Student Adapter: the teacher's output, corrected by what matured labels have said since.

    Attributes:
        residual: the adapter adds a correction to the teacher's logit, 0 at first; otherwise it makes the logit anew
            from what it reads, as in ExFM.
    """

    residual: bool = True

    def __post_init__(self) -> None:
        self.check("adapter")


@dataclass
class GatedConfig(LearntTargetConfig):
    """Several teachers, weighed anew for every example and task.

    Attributes:
        teachers: how many there are, the student's own among them.
        gate: learned; or equal, the plain mean of their probabilities: the control, in which layers, learning_rate,
            surface, age and hour say nothing.
    """

    teachers: int = 2
    gate: Literal["learned", "equal"] = "learned"

    def __post_init__(self) -> None:
        self.check("gated")
        if self.teachers < 2:
            raise UserError(
                f"gated.teachers: got {self.teachers}, allowed: 2 or more. Use `ah` or `adapter` for a single one."
            )
