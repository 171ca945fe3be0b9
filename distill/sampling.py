"""Negative sampling: a student may train on every positive and on a share r of the other rows.

A row is kept when its label is known to be 1, or when a hash of its example_id falls below r: nothing else enters, so
that every channel, every seed and every repetition trains on the same rows. On them the odds are 1 / r times as high,
q = p / (p + (1 - p) r), so the logit of q is that of p less log r. A student's logits are those it serves, of p; the
losses compare them as they are on the kept rows (`distill.losses.sampled_logits`), and nothing is left to correct when
it predicts.

Rows whose label is not known (its window is still open, say) are sampled as negatives are, positives to be among them.
They teach the teacher's target alone, which depends on the features only, so that dropping them biases nothing; kept in
full they would outnumber known rows of the same kind 1 / r to one, and tilt the distillation towards the hours of which
nothing is known yet. Whether one of them is kept says nothing of its outcome: the hash alone decides.

Rows of other surfaces whose labels a channel learns from (`distill.other_surfaces`) are sampled alike: its loss is
compared on the same odds. Without labels they teach the teacher's target alone and are not sampled.

Labels must be known in full or not at all: under the rule `weighted` (`distill.delay`) a target of 0 may be a positive
that is not seen yet, and dropping some of those breaks the estimate.

Free of torch. Shape letters: R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.errors import UserError

_GOLDEN, _FIRST, _SECOND = (
    np.uint64(constant) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


@dataclass(frozen=True)
class NegativeSampling:
    """Which rows are trained on.

    Attributes:
        task: the only task of the student; its label decides.
        share: r, of the rows that are not known to be positive, above 0 and below 1.
    """

    task: str
    share: float

    @staticmethod
    def of(tasks: Sequence[str], share: float) -> NegativeSampling | None:
        """The sampling of a model of these tasks; None where all negatives are kept.

        Raises:
            UserError: negatives are to be dropped, and there is not exactly one task.
        """
        if share == 1:
            return None
        if len(tasks) != 1:
            raise UserError(
                f"negative_sampling: got {share} with the tasks {', '.join(tasks)}, allowed: {ONE_TASK}"
            )
        return NegativeSampling(tasks[0], share)

    def keeps(
        self, example_id: NDArray[np.int64], positive: NDArray[np.bool_], among: float = 1.0
    ) -> NDArray[np.bool_]:
        """Which rows are kept.

        Args:
            example_id: int64 [R].
            positive: bool [R], label known to be 1.
            among: share of all rows that is wanted and that these are, by their ids (`sampled`).

        Returns:
            bool [R].
        """
        # One hash draws both shares: of those below `among`, the share r lies below r times that.
        return positive | sampled(example_id, self.share * among)


ONE_TASK = (
    "1, or a student of exactly one task: a row that is negative for one task may be positive for another, and the "
    "shift of a kept negative would differ"
)
"""What is allowed with several tasks, in words."""


def sampled(example_id: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Which rows are among a share of all, by their ids alone; of two shares the larger one holds the smaller.

    Args:
        example_id: int64 [R].
        share: from 0 to 1.

    Returns:
        bool [R].
    """
    if share == 1:
        return np.ones(len(example_id), bool)
    return mixed(example_id) < np.uint64(int(share * 2**64))


def mixed(example_id: NDArray[np.int64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea & Flood 2014) of each id: uint64 [R], evenly spread whatever the ids are.

    Args:
        example_id: int64 [R].
    """
    x = example_id.astype(np.uint64) + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
