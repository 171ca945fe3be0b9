"""Who decides the level of the serving head: the teacher with its targets, or the newest labels alone.

What the teacher says of a day comes from a snapshot some days old, and its level with it. On the serving head the
student follows that level, the more, the more rows of other surfaces it hears the teacher on; where base rates move
from day to day, it is served a day late. With `level: labels` the distillation compares the student's logit and a gap:

    L = loss(z_S + g[surface, task], target)        g = 0 at first, learnt by this loss alone

A gap takes up what is the same for all rows of a surface, so that the target teaches how rows differ; z_S has its level
from the labels of the student's own rows, which do not see the gap. Ours; on KuaiRand it did not mend calibration
(experiments/RESULTS.md).

Shape letters: B examples, k tasks of the student, S surfaces.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from distill.batch import Batch
from distill.channel_config import Level


class LevelGaps(nn.Module):
    """How far a target's level lies from the student's, by surface and task, in logits.

    Args:
        surfaces: S.
        tasks: k.
    """

    def __init__(self, surfaces: int, tasks: int):
        super().__init__()
        self.surfaces = surfaces
        # A layer, which has a form for several students at once (`students.bank`).
        self.gaps = nn.Linear(surfaces, tasks, bias=False)
        nn.init.zeros_(self.gaps.weight)

    def forward(self, logits: Tensor, batch: Batch) -> Tensor:
        """Logits as the distillation compares them.

        Args:
            logits: float32 [B, k] of the student; [N, B, k] of N students.
            batch: gives the surfaces.
        """
        rows = functional.one_hot(batch.domain, self.surfaces).to(logits.dtype)
        return logits + self.gaps(rows.expand(*logits.shape[:-1], self.surfaces))


def level_gaps(level: Level, surfaces: int, tasks: int) -> LevelGaps | None:
    """Gaps where labels decide the level; None where the target does.

    Args:
        level: setting of a channel on the serving head.
        surfaces, tasks: numbers of both.
    """
    return LevelGaps(surfaces, tasks) if level == "labels" else None
