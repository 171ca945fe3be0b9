"""The Student Adapter: what the teacher says, refined by the newest ground truth (ExFM, arXiv 2502.17494; GEM).

    z_A = z_F + MLP(inputs)      L_ad = BCE(z_A, y)      L_sa = w BCE(z_D2, SG[sigmoid(z_A)])

It answers a teacher that is late (z_F is of a snapshot some days old), and one whose objective is not that of the
student's surface. The residual form with a last layer of zeros is ours: an adapter that has learnt nothing hands the
teacher on as it is. ExFM's z_A = MLP(z_F) is `residual: false`. See `adapters.learnt_target` for the order of a step.

Logits alone tell the adapter how far the teacher's level has moved. With `features` it also reads ids
(`adapters.id_inputs`), with `labels: all` it learns from the newest labels of all surfaces, of which the student sees
none:

    channels:
      adapter_surfaces:
        adapter: {head: serving, other_surfaces: 1.0, labels: all, features: [user_id, item_id], surface: true}

Shape letters: B examples, k tasks of the student.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adapters.adapter_config import StudentAdapterConfig
from adapters.id_inputs import IdInputs, check_features
from adapters.learnt_target import LearntTarget, mlp
from adapters.teacher_inputs import TeacherInputs
from distill.batch import Batch
from distill.losses import base_rate_logits, sampled_rates, start_bias
from distill.protocols import Architecture
from distill.schema import FeatureSchema


class StudentAdapter(LearntTarget):
    """The target is the teacher's logit and a correction that an MLP reads from the teacher's logits of all tasks.

    Args:
        config: weights, form of head and adapter, what the adapter reads.
        schema: the data set's schema.
        seed: of the initial values.
    """

    config: StudentAdapterConfig

    def __init__(self, config: StudentAdapterConfig, schema: FeatureSchema, seed: int):
        super().__init__("adapter", config, schema, seed)
        self.inputs = TeacherInputs(config, schema)
        check_features(config, schema)
        self.other_labels = config.labels == "all"
        self.in_banks = not config.features  # whose tables are no modules of rows alone

    def build_estimator(self, student: Architecture) -> nn.Module:
        check_features(self.config, self.schema, student)
        self.ids = IdInputs(self.config, self.schema, self.seed) if self.config.features else None
        read = self.inputs.width + (0 if self.ids is None else self.ids.width)
        widths = [read, *self.config.layers, len(student.tasks)]
        return mlp(widths, zero=self.config.residual)

    def set_base_rates(self, rates: Mapping[str, Tensor]) -> None:
        """Head, and an adapter that makes its logits anew, start at the rates."""
        super().set_base_rates(rates)
        if not self.config.residual:
            *_, last = self.estimator.children()
            assert isinstance(last, nn.Linear)
            start_bias(last.bias, base_rate_logits(sampled_rates(rates, self.shift), self.tasks))

    def estimate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        signal = batch.teacher
        assert signal is not None, "the batch carries no teacher signal"
        read = self.inputs(batch, [signal])
        logits = self.estimator(read if self.ids is None else torch.cat([read, self.ids(batch)], 1))
        if self.config.residual:
            logits = logits + self.teacher_logits(signal)
        return logits, signal.mask


def build(config: StudentAdapterConfig, schema: FeatureSchema, seed: int) -> StudentAdapter:
    """Builder for the registry; UserError when a weight is given to a task that the schema lacks."""
    return StudentAdapter(config, schema, seed)
