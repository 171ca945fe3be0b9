"""Channels that learn their own target: an estimator corrects or weighs teachers by matured labels, and what it says is
distilled into a head of the student.

    estimator     z_T = f(teachers)       L_own = BCE(z_T, y)               matured labels; an Adam of its own
    distill head  z_D = head(tap)         L     = w BCE(z_D, SG[sigmoid(z_T)])

In this order in every training step (ExFM, arXiv 2502.17494): the estimator learns, speaks again, and the student
learns from what it says then. The teachers feel nothing, the estimator nothing of the student, and the serving head
nothing of either, unless `head: serving` puts what the estimator says in the teacher's place of `single`. All of it
exists in training only.

A student that trains on sampled rows (`distill.sampling`) sees labels of those rows: logits are of these here, the
teachers' being shifted as `distill.losses.teacher_logits` does.

Shape letters: B examples, k tasks of the student, W width of what the estimator reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapters.adapter_config import LearntTargetConfig
from adapters.distill_head import DistillHead, tap_width
from adapters.layers import relu_layers
from distill.batch import Batch, TeacherSignal
from distill.distillation import check_tasks, soft_bce, weights_of
from distill.errors import NonFiniteError
from distill.levels import level_gaps
from distill.losses import masked_bce, sampled_logits, sampled_rates
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded


class LearntTarget(Channel):
    """Base of these channels: a subclass builds the estimator and says what it estimates.

    Args:
        name: of the channel; its parameters are seeded by it.
        config: its settings.
        schema: the data set's schema.
        seed: of the initial values.

    Raises:
        UserError: a weight is given to a task that the schema lacks.
    """

    reads_batch = ("estimator",)
    head: DistillHead  # unless it touches the serving head
    task_weights: Tensor

    def __init__(self, name: str, config: LearntTargetConfig, schema: FeatureSchema, seed: int):
        super().__init__()
        check_tasks(config.task_weights, schema, name)
        self.name, self.config, self.schema, self.seed = name, config, schema, seed
        self.touches_serving_head = config.head == "serving"
        self.other_surfaces = config.other_surfaces if config.weight else 0.0
        self._logs: dict[str, Tensor] = {}

    @abstractmethod
    def build_estimator(self, student: Architecture) -> nn.Module:
        """The module that makes the target, called once; without parameters where nothing is learnt."""

    @abstractmethod
    def estimate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The target as logits, differentiable in the estimator alone.

        Returns:
            z_T, float32 [B, k], finite everywhere; mask bool [B] of the rows that some teacher knows.
        """

    def attach(self, student: Architecture) -> None:
        """Build head, estimator and its optimiser.

        Raises:
            UserError: the student has no such tap.
        """
        config = self.config
        width = tap_width(student, config.tap, self.name)
        self.tasks, self.task_index, self.shift = student.tasks, student.task_index, student.logit_shift
        self.register_buffer("task_weights", weights_of(config.task_weights, student.tasks), persistent=False)
        with seeded(self.seed, f"channel.{self.name}"):
            if not self.touches_serving_head:
                self.head = DistillHead(width, config.hidden, student.tasks, config.beta)
            self.estimator = self.build_estimator(student)
        self.gaps = level_gaps(config.level, len(self.schema.domains), len(student.tasks))
        own = list(self.estimator.parameters())
        self.optimizer = torch.optim.Adam(own, lr=config.learning_rate, fused=True) if own else None

    def dense_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the head, or of the gaps between its level and the target's; `step` updates the estimator's."""
        learns = self.gaps if self.touches_serving_head else self.head
        return () if learns is None else learns.parameters()

    def training_state(self) -> dict[str, Any]:
        """Of the estimator's own Adam; nothing where nothing is learnt."""
        return {} if self.optimizer is None else {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """The head starts at the rates of the rows trained on, about where its targets lie."""
        if not self.touches_serving_head:
            self.head.set_base_rates(sampled_rates(rates, self.shift))

    def teacher_logits(self, signal: TeacherSignal) -> Tensor:
        """A teacher's logits for the student's tasks, on the rows trained on; float32 [B, k]."""
        return signal.logits[:, self.task_index] - self.shift

    def step(self, output: Output, batch: Batch) -> None:
        """One step of the estimator.

        Raises:
            NonFiniteError: its loss is NaN or infinite; nothing was updated.
        """
        loss = self.own_loss(batch)
        if self.optimizer is None or loss is None:
            return
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"{self.name}: loss of the target is {loss.item()} on day {batch.day} (examples "
                f"{batch.example_id[0].item()} and following). Lower {self.name}.learning_rate, or look at the "
                "teacher's logits."
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def own_loss(self, batch: Batch) -> Tensor | None:
        """Of the estimator, which is scored before it learns; None without a label: Adam would move on by momentum."""
        logits, known = self.estimate(batch)
        labels, matured = batch.labels[:, self.task_index], batch.matured[:, self.task_index]
        self._log(batch, logits.detach(), labels, matured)
        mask = matured & known.unsqueeze(1)
        return masked_bce(logits, labels, mask) if mask.any() else None

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            logits, known = self.estimate(batch)
        mask = known.unsqueeze(1).expand(logits.shape[-2:])
        loss = soft_bce(self._taught(output, batch, student), logits, mask, self.task_weights)
        # What `step` has logged is of the student's own rows.
        return self.config.weight * loss, {"loss": loss.detach(), **(self._logs if batch.own else {})}

    def _taught(self, output: Output, batch: Batch, student: Architecture) -> Tensor:
        """Logits [B, k] that learn from the target."""
        if not self.touches_serving_head:
            return self.head(output.taps[self.config.tap])
        logits = sampled_logits(output.logits, student)
        return logits if self.gaps is None else self.gaps(logits, batch)

    def _log(self, batch: Batch, logits: Tensor, labels: Tensor, matured: Tensor) -> None:
        """The target beside the teacher itself, by the labels that both are known for; how far it lies from the
        teacher, in logits: on average over tasks without a sign (`correction`), and of each task with it (`shift_`).
        """
        assert batch.teacher is not None, "the batch carries no teacher signal"
        known = batch.teacher.mask.unsqueeze(1)
        of_teacher = self.teacher_logits(batch.teacher)
        moved = (logits - of_teacher) * known  # [B, k]; [N, B, k] of N students
        shifts = moved.sum(-2) / known.sum().clamp_min(1)
        self._logs = {
            "target_loss": masked_bce(logits, labels, matured & known),
            "teacher_loss": masked_bce(of_teacher, labels, matured & known),
            "correction": moved.abs().sum((-2, -1)) / (known.sum().clamp_min(1) * logits.size(-1)),
        } | {f"shift_{task}": shift for task, shift in zip(self.tasks, shifts.unbind(-1), strict=True)}


def mlp(widths: Sequence[int], zero: bool) -> nn.Sequential:
    """The network of an estimator.

    Args:
        widths: from the inputs to the outputs.
        zero: the last layer starts at 0, and so does what comes out.
    """
    layers = relu_layers(widths)
    if zero:
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)
    return nn.Sequential(*layers)
