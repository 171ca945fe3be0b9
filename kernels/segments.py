"""From examples to their events and back, without padding and without a loop over rows.

Shape letters: B examples, T events of the whole batch, W any width, N models that read the same batch: each function
also takes [N, T, W] for [T, W], or [N, B, W] for [B, W], every model by itself.

Sums over an example's events go through `embedding_bag`: forward and backward together take half the time of
`segment_reduce` or `index_add` on CPU (experiments/benchmarks/student_parts.py). It is no differentiable path
here: the gradient of a sum is a gather, the gradient of a gather is a sum, and both are written out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Segments:
    """Which events belong to which example.

    Attributes:
        offsets: int64 [B + 1]; the events of example b lie at offsets[b]:offsets[b + 1].
        rows: int64 [T], the example of each event.
        places: int64 [T], 0, 1, ..., T - 1.
    """

    offsets: Tensor
    rows: Tensor
    places: Tensor
    _repeated: dict[int, Segments] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, offsets: Tensor, events: int) -> Segments:
        """Segments of `offsets` [B + 1] over `events` = T events."""
        places = torch.arange(events, device=offsets.device)
        examples = torch.arange(offsets.numel() - 1, device=offsets.device)
        return cls(offsets, examples.repeat_interleave(offsets.diff(), output_size=events), places)

    @property
    def lengths(self) -> Tensor:
        """int64 [B], events per example."""
        return self.offsets.diff()

    def repeated(self, models: int) -> Segments:
        """The same segments for each of N models, one model after the other: over N * T events."""
        if models not in self._repeated:
            events = self.places.numel()
            starts = events * torch.arange(models, device=self.offsets.device)
            offsets = (self.offsets[:-1] + starts.unsqueeze(1)).flatten()
            offsets = torch.cat([offsets, offsets.new_tensor([events * models])])
            self._repeated[models] = Segments.of(offsets, events * models)
        return self._repeated[models]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        return values.index_select(0, segments.rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum(gradients[0], ctx.segments), None


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        return _sum(values, segments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.segments.rows), None


class _WeightedPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, segments: Segments) -> Tensor:
        ctx.save_for_backward(values, weights)
        ctx.segments = segments
        return _sum(values, segments, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        values, weights = ctx.saved_tensors
        gradient = gradients[0].index_select(0, ctx.segments.rows)
        return gradient * weights.unsqueeze(1), torch.linalg.vecdot(gradient, values), None


def spread(values: Tensor, segments: Segments) -> Tensor:
    """Give every event its example's value: [B, W] to [T, W]."""
    if values.dim() == 3:
        return _by_model(spread, segments, values)
    return _Spread.apply(values, segments)


def pool(values: Tensor, segments: Segments, weights: Tensor | None = None) -> Tensor:
    """Sum over each example's events; 0 for an example without any.

    Args:
        values: float [T, W].
        segments: of the events.
        weights: float [T], of N models [N, T], factor of each event; None for 1.

    Returns:
        float [B, W].
    """
    if values.dim() == 3:
        return _by_model(pool, segments, values, weights)
    if weights is None:
        return _Pool.apply(values, segments)
    return _WeightedPool.apply(values, weights.to(values.dtype), segments)  # unlike ones meet under autocast


def pool_mean(values: Tensor, segments: Segments) -> Tensor:
    """Mean over each example's events, [T, W] to [B, W]; 0 for an example without any."""
    return pool(values, segments) / segments.lengths.clamp_min(1).unsqueeze(1)


def softmax(scores: Tensor, segments: Segments) -> Tensor:
    """Softmax over each example's events: [T] to [T], or [T, W] to [T, W], every column by itself."""
    if scores.dim() == 3:
        return _by_model(softmax, segments, scores)
    # The maximum only guards against overflow and cancels out, so that it needs no gradient.
    highest = torch.segment_reduce(
        scores.detach(), "max", offsets=segments.offsets, axis=0, initial=float("-inf")
    )
    powers = (scores - highest.index_select(0, segments.rows)).exp()
    columns = powers if powers.dim() == 2 else powers.unsqueeze(1)
    return (columns / spread(pool(columns, segments), segments)).view_as(scores)


def _by_model(
    function: Callable[..., Tensor], segments: Segments, values: Tensor, weights: Tensor | None = None
) -> Tensor:
    """A function of one model's rows, of those of N models, [N, rows, W]."""
    further = () if weights is None else (weights.flatten(),)
    result = function(values.flatten(0, 1), segments.repeated(len(values)), *further)
    return result.view(len(values), -1, result.size(1))


def _sum(values: Tensor, segments: Segments, weights: Tensor | None = None) -> Tensor:
    return functional.embedding_bag(
        segments.places,
        values,
        segments.offsets,
        mode="sum",
        include_last_offset=True,
        per_sample_weights=weights,
    )
