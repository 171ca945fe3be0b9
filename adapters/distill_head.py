"""The distill head: logits of their own on a student's tap, for channels whose targets the serving head must not see.

It exists in training only (ExFM, arXiv 2502.17494).

Shape letters: B examples, W width of the tap, k tasks of the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from distill.errors import UserError, nearest
from distill.losses import base_rate_logits, scale_gradient, start_bias
from distill.protocols import Architecture


class DistillHead(nn.Module):
    """An MLP whose hidden layers the tasks share. Build it inside `seeded(seed, "channel.<name>")`.

    Args:
        width: W.
        hidden: widths of the hidden layers; none for a linear head.
        tasks: of the student, one logit each.
        beta: factor on the gradient that the head sends into the tap; its own parameters do not feel it.
    """

    def __init__(self, width: int, hidden: Sequence[int], tasks: Sequence[str], beta: float = 1.0):
        super().__init__()
        self.tasks, self.beta = tuple(tasks), beta
        self.hidden = nn.Sequential()
        for before, after in zip([width, *hidden], hidden, strict=False):
            self.hidden.extend([nn.Linear(before, after), nn.ReLU()])
        self.output = nn.Linear(hidden[-1] if hidden else width, len(self.tasks))

    def forward(self, tap: Tensor) -> Tensor:
        """Logits [B, k] of a tap [B, W]."""
        return self.output(self.hidden(scale_gradient(tap, self.beta)))

    def set_base_rates(self, rates: Mapping[str, Tensor], factor: float = 1.0) -> None:
        """Start the biases where the targets lie.

        Args:
            rates: as in `Architecture.set_base_rates`, or as `distill.losses.sampled_rates` makes them of a student
                that trains on sampled rows.
            factor: on the rate, such as the alpha of scaled targets.
        """
        start_bias(self.output.bias, base_rate_logits(rates, self.tasks, factor))


def tap_width(student: Architecture, tap: str, channel: str) -> int:
    """W of a student's tap.

    Args:
        student: the student.
        tap: its name.
        channel: whose setting it is.

    Raises:
        UserError: the student has no such tap.
    """
    widths = student.tap_widths
    if tap not in widths:
        raise UserError(
            f"{channel}.tap: got '{tap}', allowed: {', '.join(widths)}. {nearest(tap, widths)}".rstrip()
        )
    return widths[tap]
