"""NE of a training while it runs: the labels' loss of its steps over the entropy of the labels they have seen.

Every step is scored before it is learnt from, so this is an honest figure, of the rows so far; the final scores
(`distill.scores.ne`) have one normaliser for all models and are of whole days.

Shape letters: B examples, k tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class RunningNE:
    """Counts labels as they come."""

    def __init__(self) -> None:
        self._positives: Tensor = torch.zeros((), dtype=torch.float64)
        self._known: Tensor = torch.zeros((), dtype=torch.float64)

    def add(self, labels: Tensor, mask: Tensor) -> None:
        """Count a batch.

        Args:
            labels: float32 [B, k].
            mask: bool [B, k], False where a label is not known.
        """
        self._positives = self._positives + torch.where(mask, labels, 0).sum(0, dtype=torch.float64)
        self._known = self._known + mask.sum(0)

    def of(self, loss: float) -> float | None:
        """NE of all tasks together.

        Args:
            loss: for each task the mean over its known labels, summed over tasks (`distill.losses.label_loss`).

        Returns:
            loss over the summed entropies; None as long as every task has seen one kind of label only.
        """
        rates = (self._positives / self._known).reshape(-1).tolist()
        entropy = math.fsum(_entropies(rates))
        return loss / entropy if entropy > 0 else None


def _entropies(rates: Sequence[float]) -> list[float]:
    """In nats; a rate outside of (0, 1), or not known, has none."""
    inside = [p for p in rates if 0 < p < 1]
    return [-p * math.log(p) - (1 - p) * math.log1p(-p) for p in inside]
