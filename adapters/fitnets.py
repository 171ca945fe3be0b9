"""Hints: the student's tap foretells the teacher's representation of the example (FitNets, arXiv 1412.6550, eq. 3).

A control of representation transfer that costs nothing when serving: the regressor exists in training only.

Shape letters: B examples, W width of the tap, R width of the representation.
"""

from __future__ import annotations

from torch import Tensor, nn

from adapters.distill_head import tap_width
from adapters.encoders import leading
from adapters.representation_config import FitNetsConfig
from distill.batch import Batch
from distill.losses import scale_gradient
from distill.protocols import Architecture, Channel, Output
from distill.schema import FeatureSchema
from distill.seeding import seeded


class FitNets(Channel):
    """w * mean over rows of mean over R of (V tap + b - z)^2, of the rows where the teacher says something.

    The mean over R, where the paper has half the sum, so that the weight does not depend on the width (ours). z is what
    the teacher's log holds: no gradient goes there. The gradient into the student is that times beta.

    Args:
        config: weight, tap, width of the representation.
        seed: of the regressor's initial values.
    """

    touches_serving_head = False
    needs = frozenset({"representation"})

    def __init__(self, config: FitNetsConfig, seed: int):
        super().__init__()
        self.config = config
        self.seed = seed

    def attach(self, student: Architecture) -> None:
        """Build the regressor on the student's tap.

        Raises:
            UserError: the student has no such tap.
        """
        width = tap_width(student, self.config.tap, "fitnets")
        with seeded(self.seed, "channel.fitnets"):
            self.regressor = nn.Linear(width, self.config.dim)

    def loss(self, output: Output, batch: Batch, student: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        config, signal = self.config, batch.teacher
        assert signal is not None and signal.representation is not None, "no representation in the batch"
        target = leading(signal.representation, config.dim).detach()
        foretold = self.regressor(scale_gradient(output.taps[config.tap], config.beta))
        error = (foretold - target).square().mean(1)
        loss = (error * signal.mask).sum() / signal.mask.sum().clamp_min(1)
        return config.weight * loss, {"loss": loss.detach()}


def build(config: FitNetsConfig, schema: FeatureSchema, seed: int) -> FitNets:
    """Builder for the registry."""
    return FitNets(config, seed)
