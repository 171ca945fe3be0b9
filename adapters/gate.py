"""Several teachers, weighed anew for every example: gated they help, as a plain mean they may hurt (DiverseDistill).

    g = softmax over teachers of MLP(inputs)      p = sum_i g_i sigmoid(z_i)      L_gate = BCE(p, y)
    L = w BCE(z_D, SG[p])

A teacher without a signal on a row has no weight there. The gate starts as the plain mean, which `gate: equal` keeps.
The published text leaves the gate open; inputs, a weight per task and the mixture of probabilities are ours. See
`adapters.learnt_target` for the order of a step.

Shape letters: B examples, n teachers, k tasks of the student.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from adapters.adapter_config import GatedConfig
from adapters.learnt_target import LearntTarget, mlp
from adapters.teacher_inputs import TeacherInputs
from distill.batch import Batch, TeacherSignal
from distill.errors import UserError
from distill.protocols import Architecture, Need
from distill.schema import FeatureSchema


class Gated(LearntTarget):
    """The target is a mixture of the student's own teacher and the experiment's others.

    Args:
        config: weights, form of head and gate, how many teachers there are.
        schema: the data set's schema.
        seed: of the initial values.
    """

    needs = frozenset[Need]({"logits", "others"})
    config: GatedConfig

    def __init__(self, config: GatedConfig, schema: FeatureSchema, seed: int):
        super().__init__("gated", config, schema, seed)
        self.inputs = TeacherInputs(config, schema, config.teachers)

    def build_estimator(self, student: Architecture) -> nn.Module:
        if self.config.gate == "equal":
            return nn.Identity()
        outputs = self.config.teachers * len(student.tasks)
        return mlp([self.inputs.width, *self.config.layers, outputs], zero=True)

    def estimate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the mixture; `UserError` when there are more or fewer teachers than the config says."""
        signals = self._signals(batch)
        known = torch.stack([signal.mask for signal in signals], dim=1)  # [B, n]
        logits = torch.stack([self.teacher_logits(signal) for signal in signals], dim=1)
        weights = self.log_weights(batch, signals, known)
        return mixture_logits(logits, weights), known.any(1)

    def log_weights(self, batch: Batch, signals: list[TeacherSignal], known: Tensor) -> Tensor:
        """log g of every teacher and task, float32 [B, n, k]; -inf where a teacher has no signal and another has.

        Args:
            batch: the examples.
            signals: of the teachers.
            known: bool [B, n], where each has a signal.
        """
        tasks = len(self.task_index)
        if self.config.gate == "equal":
            scores = torch.zeros(*known.shape, tasks, device=known.device)
        else:
            scores = self.estimator(self.inputs(batch, signals)).unflatten(1, (-1, tasks))
        silent = ~known & known.any(
            1, keepdim=True
        )  # a row that no teacher knows is masked later, and stays finite
        return scores.masked_fill(silent.unsqueeze(2), -torch.inf).log_softmax(1)

    def _log(self, batch: Batch, logits: Tensor, labels: Tensor, matured: Tensor) -> None:
        """Also the mean weight of the student's own teacher, and by name of the others."""
        super()._log(batch, logits, labels, matured)
        signals = self._signals(batch)
        known = torch.stack([signal.mask for signal in signals], dim=1)
        with torch.no_grad():
            weights = self.log_weights(batch, signals, known).exp().mean(2) * known
        shares = weights.sum(0) / known.any(1).sum().clamp_min(1)
        self._logs |= {
            f"weight_{name}": share for name, share in zip(("own", *batch.others), shares, strict=True)
        }

    def _signals(self, batch: Batch) -> list[TeacherSignal]:
        assert batch.teacher is not None, "the batch carries no teacher signal"
        signals = [batch.teacher, *batch.others.values()]
        if len(signals) != self.config.teachers:
            others = f"and {', '.join(batch.others)}" if batch.others else "alone"
            raise UserError(
                f"gated.teachers: got {self.config.teachers}, allowed: {len(signals)}, the student's teacher {others}"
            )
        return signals


def mixture_logits(logits: Tensor, log_weights: Tensor) -> Tensor:
    """The logit of sum_i g_i sigmoid(z_i), without the cancellation of log(1 - p).

    Args:
        logits: z, float32 [B, n, k].
        log_weights: log g, float32 [B, n, k]; sums to 1 over n.

    Returns:
        float32 [B, k].
    """
    positive = (log_weights + logsigmoid(logits)).logsumexp(1)
    negative = (log_weights + logsigmoid(-logits)).logsumexp(1)
    return positive - negative


def build(config: GatedConfig, schema: FeatureSchema, seed: int) -> Gated:
    """Builder for the registry; UserError when a weight is given to a task that the schema lacks."""
    return Gated(config, schema, seed)
