"""Encoders of a jagged past: the vectors of earlier examples as one field of the student (LoopFM, arXiv 2605.29280).

    e_j   = W v_j + g(t - t_j)                      every vector in the student's width, and how old it is
    field = O pooled({e_j}, item)                   mean, sum, DIN or target attention; learned where the past is empty

Shape letters: B examples, P vectors of the whole batch, R their width, D embedding dim, L most vectors of an example, H
heads, K ages with a vector of their own. With stacked parameters (`distill.protocols.Stackable`) [B, D] is [N, B, D] of
N students, and so is what is made of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from distill.batch import Past
from distill.protocols import Stackable
from kernels.segments import Segments, pool, pool_mean, softmax, spread

ROW_STD = 0.01
"""Of the tables' rows at their start (kernels.embedding): a new field begins as small as they do."""

YOUNGEST, OLDEST, AGES = 60_000, 30 * 86_400_000, 8
"""A minute and 30 days in ms, and K."""

UNIT_WIDTH = 32


class PastEncoder(Stackable):
    """From the past of every example to one field.

    Build it inside `seeded(seed, "channel.<name>")`. An example without a past gets a learned vector rather than zeros,
    so that "nothing is known of this user" is something the student can learn from (ours).

    Args:
        width: R.
        dim: D.
        encoder: mean, sum, din or target_attention.
        length: L.
        heads: H of target attention, a divisor of D.
        value_scale: root mean square that the vectors have at first, roughly. The last map begins so small that the
            field has the size of the tables' rows: the student starts where it would without the field, and Adam's
            steps make it as large as it is useful.
    """

    def __init__(self, width: int, dim: int, encoder: str, length: int, heads: int, value_scale: float):
        super().__init__()
        self.project = nn.Linear(width, dim, bias=False)
        self.age = AgeEncoding(dim)
        self.pooling = make_pooling(encoder, dim, length, heads)
        self.output = nn.Linear(dim, dim, bias=False)
        self.absent = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.project.weight, std=width**-0.5)
        nn.init.normal_(self.output.weight, std=ROW_STD / value_scale * dim**-0.5)
        nn.init.normal_(self.absent, std=ROW_STD)

    def forward(self, past: Past, timestamp: Tensor, item: Tensor) -> Tensor:
        """The field, float [B, D].

        Args:
            past: vectors [P, R].
            timestamp: int64 [B] ms, of the examples.
            item: float [B, D], embedding of the examples' items.
        """
        segments = Segments.of(past.offsets, past.values.size(-2))
        age = timestamp.index_select(0, segments.rows) - past.time
        values = past.values.expand(*item.shape[:-2], -1, -1)
        events = self.project(values) + self.age(age)
        field = self.output(self.pooling(events, item, segments))
        absent = self.absent.to(field.dtype).unsqueeze(-2)
        return torch.where((segments.lengths == 0).unsqueeze(1), absent, field)


class AgeEncoding(Stackable):
    """A learned vector for how old something is, linear between K ages even in the logarithm, minutes to weeks (ours).

    All are zero at first: an encoder starts as one that knows no ages.

    Args:
        dim: D.
    """

    ages: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(AGES, dim))
        self.register_buffer("ages", torch.arange(AGES), persistent=False)

    def forward(self, age: Tensor) -> Tensor:
        """Vectors, float [P, D], of ages in ms, int64 [P]."""
        factor = age.clamp(YOUNGEST, OLDEST).to(self.vectors.dtype) / YOUNGEST
        place = factor.log() * ((AGES - 1) / math.log(OLDEST / YOUNGEST))
        return (1 - (place.unsqueeze(1) - self.ages).abs()).clamp_min(0) @ self.vectors


class MeanPooling(nn.Module):
    """Mean of an example's vectors."""

    def forward(self, events: Tensor, item: Tensor, segments: Segments) -> Tensor:
        return pool_mean(events, segments)


class SumPooling(nn.Module):
    """Sum of an example's vectors over sqrt(L): how many there are shows, and none of it grows with L (ours).

    Args:
        length: L.
    """

    def __init__(self, length: int):
        super().__init__()
        self.scale = length**-0.5

    def forward(self, events: Tensor, item: Tensor, segments: Segments) -> Tensor:
        return self.scale * pool(events, segments)


class ActivationPooling(Stackable):
    """Sum over sqrt(L) of the vectors, each times MLP([e, q, e * q]) with the item's embedding q (DIN, arXiv
    1706.06978).

    One hidden layer. Its matrix is cut by its three inputs, so that q passes through it once per example. The weights
    start around 1, so that it starts near the sum (ours).

    Args:
        dim: D.
        length: L.
    """

    def __init__(self, dim: int, length: int):
        super().__init__()
        self.scale = length**-0.5
        self.first = nn.Linear(3 * dim, UNIT_WIDTH)
        self.last = nn.Linear(UNIT_WIDTH, 1)
        nn.init.ones_(self.last.bias)

    def forward(self, events: Tensor, item: Tensor, segments: Segments) -> Tensor:
        of_event, of_item, of_product = self.first.weight.mT.chunk(3, dim=-2)
        once = item @ of_item + self.first.bias.unsqueeze(-2)
        product = (events * spread(item, segments)) @ of_product
        hidden = spread(once, segments) + events @ of_event + product
        return self.scale * pool(events, segments, self.last(hidden.relu()).squeeze(-1))


class TargetAttention(nn.Module):
    """Multi-head attention of one query, from the item's embedding, over the vectors (arXiv 1706.03762, 3.2).

    Args:
        dim: D.
        heads: H.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)  # a bias would add the same to all scores of a head
        self.value = nn.Linear(dim, dim, bias=False)

    def forward(self, events: Tensor, item: Tensor, segments: Segments) -> Tensor:
        by_head = (self.heads, -1)
        products = spread(self.query(item), segments) * self.key(events)
        weights = softmax(self.scale * products.unflatten(-1, by_head).sum(-1), segments)  # [P, H]
        values = self.value(events).unflatten(-1, by_head) * weights.unsqueeze(-1)
        return pool(values.flatten(-2), segments)


def leading(representations: Tensor, width: int) -> Tensor:
    """The first numbers of representations, [N, `width`] of [N, R], which stand alone (Matryoshka)."""
    stored = representations.size(1)
    assert stored >= width, f"got representations of width {stored}, wanted {width}"
    return representations[:, :width]


def make_pooling(encoder: str, dim: int, length: int, heads: int) -> nn.Module:
    """From vectors [P, D], the items' embeddings [B, D] and segments to [B, D]: 0 where an example has no vector.

    Args: those of `PastEncoder`.
    """
    if encoder == "mean":
        return MeanPooling()
    if encoder == "sum":
        return SumPooling(length)
    if encoder == "din":
        return ActivationPooling(dim, length)
    assert encoder == "target_attention", encoder
    return TargetAttention(dim, heads)
