"""Means of dense gradients over processes, exchanged while the backward pass goes on.

The algorithm of torch's `DistributedDataParallel`, which would have to wrap the training step with its channels to see
every gradient: parameters stand in buckets, the last ones first, as a backward pass comes to them; a bucket of which
every gradient is there is exchanged, always in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

BUCKET = 1 << 17
"""Numbers in a bucket, about: 0.5 MiB. A smaller one is sooner full, and every one costs two processes a wake-up."""


class GradientMeans:
    """Replaces gradients by their means over processes.

    A parameter that no process has a gradient of keeps none; one that this process has none of counts as 0; one that is
    split has its mean already.

    Args:
        parameters: the same in all processes; making the object is a collective call.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        copied = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        # Apart from the model's own exchanges, among which a backward pass may come to a bucket anywhere.
        self._group = dist.new_group()
        self._buckets = [_Bucket(members, self._group) for members in _in_buckets(copied[::-1])]
        self._begun = 0
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))
            for bucket in self._buckets
            for parameter in bucket.parameters
        ]

    def end(self) -> None:
        """After a backward pass: exchange what is left and wait for all; a collective call."""
        for bucket in self._buckets[self._begun :]:
            bucket.begin()
        for bucket in self._buckets:
            bucket.end()
        self._begun = 0

    def close(self) -> None:
        """Exchange no more."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, bucket: _Bucket, gradient: object) -> None:
        assert bucket.missing, "a second backward pass before the step"
        bucket.missing -= 1
        while self._begun < len(self._buckets) and not self._buckets[self._begun].missing:
            self._buckets[self._begun].begin()
            self._begun += 1


class _Bucket:
    """Parameters whose gradients are exchanged as one.

    Attributes:
        parameters: its own.
        missing: how many of them the backward pass has not come to yet.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], group: dist.ProcessGroup):
        self.parameters, self._group = parameters, group
        self.missing = len(parameters)

    def begin(self) -> None:
        """Begin to add up the gradients, and of each the number of processes that have it."""
        there = torch.tensor([float(parameter.grad is not None) for parameter in self.parameters])
        self._flat = torch.cat([*(_gradient(parameter).flatten() for parameter in self.parameters), there])
        self._adding = dist.all_reduce(self._flat, group=self._group, async_op=True)

    def end(self) -> None:
        """Wait for the sums; put the means in the gradients' place."""
        self._adding.wait()
        self._flat /= dist.get_world_size()
        sizes = [parameter.numel() for parameter in self.parameters]
        *means, anywhere = self._flat.split([*sizes, len(sizes)])
        for parameter, mean, found in zip(self.parameters, means, anywhere.tolist(), strict=True):
            parameter.grad = mean.view_as(parameter) if found else None
        self.missing = len(sizes)


def _in_buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in their order, a bucket full as soon as it holds `BUCKET` numbers."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(member.numel() for member in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
