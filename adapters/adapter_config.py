"""Settings of the channels that learn their own target from matured labels. Free of torch."""

from dataclasses import dataclass, field
from typing import Literal

from distill.channel_config import Level, check_other_surfaces
from distill.config import OMITTED
from distill.errors import UserError


@dataclass
class LearntTargetConfig:
    """A target learnt from teachers and matured labels, and the head that it is distilled into.

    Attributes:
        weight: factor of the distillation loss; 0 or more. What makes the target learns whatever it is.
        beta: factor on the gradient that the distill head sends into the student; 0 or more, 0 sends none.
        head: distill, a head of its own on the tap; or serving, where the target takes the place that the teacher has
            in `single`: tap, hidden and beta say nothing then.
        tap: the student's tap that the distill head reads.
        hidden: widths of the distill head's hidden layers; none for a linear head.
        task_weights: factor of a task's distillation loss by its name; 1 for tasks not named.
        layers: widths of the hidden layers of what makes the target; none for a linear one.
        learning_rate: of its own Adam; more than 0.
        surface: it also reads the example's surface; of use to a model of several.
        age: it also reads how old each teacher's snapshot is.
        hour: it also reads the hour of the day (UTC), which the student itself sees only as a feature of the data.
        other_surfaces: share of the other surfaces' rows that the distill head also learns from, from 0 to 1.
        level: on the serving head: target, it takes over the target's level; or labels, those of the student's own rows
            alone decide it.
    """

    weight: float = 1.0
    beta: float = 1.0
    head: Literal["distill", "serving"] = "distill"
    tap: str = "penultimate"
    hidden: list[int] = field(default_factory=list)
    task_weights: dict[str, float] = field(default_factory=dict)
    layers: list[int] = field(default_factory=lambda: [32])
    learning_rate: float = 3e-3
    surface: bool = False
    age: bool = False
    hour: bool = False
    other_surfaces: float = 0.0
    level: Level = field(default="target", metadata=OMITTED)

    def check(self, channel: str) -> None:
        """Refuse values that no such channel can have.

        Raises:
            UserError: naming the field of the channel.
        """
        for name, value in (("weight", self.weight), ("beta", self.beta)):
            if value < 0:
                raise UserError(f"{channel}.{name}: got {value}, allowed: 0 or more")
        check_other_surfaces(self.other_surfaces, channel)
        if self.level == "labels" and self.head != "serving":
            raise UserError(
                f"{channel}.level: got 'labels' with the head '{self.head}', allowed: with `head: serving`, which is "
                "served"
            )
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
        labels: own, those of the student's rows; all, also those of the other surfaces' rows, which the adapter alone
            learns from.
        features: sparse features that the adapter also reads, of those that the student reads; each through a table of
            its own.
        dim: width of these tables; a multiple of 4.
        table_learning_rate: of their row-wise AdaGrad; more than 0.
    """

    residual: bool = True
    labels: Literal["own", "all"] = "own"
    features: list[str] = field(default_factory=list)
    dim: int = 8
    table_learning_rate: float = 0.02

    def __post_init__(self) -> None:
        self.check("adapter")
        if self.labels == "all" and not self.other_surfaces:
            raise UserError(
                "adapter.labels: got 'all', allowed: own, because adapter.other_surfaces is 0. Set it to 1, or to the "
                "share of the other surfaces' rows that is to be read"
            )
        if len(set(self.features)) < len(self.features):
            raise UserError(f"adapter.features: got {self.features}, allowed: every feature once")
        if self.dim < 4 or self.dim % 4:
            raise UserError(f"adapter.dim: got {self.dim}, allowed: multiples of 4")
        if self.table_learning_rate <= 0:
            raise UserError(
                f"adapter.table_learning_rate: got {self.table_learning_rate}, allowed: more than 0"
            )


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
