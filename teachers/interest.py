"""What the history holds of the item at hand, and how much of it: the target's attention without a softmax.

    w_t = MLP([s_t ‖ q ‖ s_t ⊙ q])          one number for each event and each of m interests
    o_m = (sum over t of w_tm s_t) / √T     two matching events say more than one

A softmax would tell the mean of what matches and forget how much there was (DIN, arXiv 1706.06978, leaves it out for
that reason); next to it this is a token of another kind. Ours: the root of the length below, since the plain sum of
DIN grows without bounds where histories are long; several interests per target; and the sum of all events beside
them, which tells how active the user is.

Shape letters: B examples, T events of all histories (jagged), d width, m interests.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.segments import Segments, pool, spread


class Interest(nn.Module):
    """See the module's text.

    Args:
        dim: d.
        interests: m, at least 1.
        hidden: width of the MLP.

    Attributes:
        tokens: m + 1 that come out.
    """

    def __init__(self, dim: int, interests: int = 1, hidden: int = 32):
        super().__init__()
        assert interests >= 1, f"interests: got {interests}"
        self.tokens = interests + 1
        self.of_event, self.of_target = nn.Linear(dim, hidden), nn.Linear(dim, hidden, bias=False)
        self.of_product = nn.Linear(dim, hidden, bias=False)
        self.weigh = nn.Linear(hidden, interests)

    def forward(self, tokens: Tensor, offsets: Tensor, target: Tensor) -> Tensor:
        """Args: tokens [T, d], offsets int64 [B + 1], target [B, d]. Returns: [B, m + 1, d], 0 of an empty history."""
        segments = Segments.of(offsets, len(tokens))
        weights = self.weights(tokens, target, segments)
        sums = [pool(tokens, segments, weight) for weight in weights.unbind(1)]
        sums.append(pool(tokens, segments))
        roots = segments.lengths.clamp_min(1).to(tokens.dtype).sqrt()
        return torch.stack(sums, dim=1) / roots[:, None, None]

    def weights(self, tokens: Tensor, target: Tensor, segments: Segments) -> Tensor:
        """One number for every event and interest, [T, m]; arguments as above."""
        # The target passes its layer once per example, not once per event.
        hidden = self.of_event(tokens) + spread(self.of_target(target), segments)
        hidden = hidden + self.of_product(tokens * spread(target, segments))
        return self.weigh(functional.silu(hidden))
