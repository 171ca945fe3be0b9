"""CPU path of the multi-task distillation loss: pieces that stay in the cache, nothing saved but the arguments.

A piece is some models' numbers at some places of [B k]; what models share is prepared once and stands before all.

Shape letters: N models, B examples, k tasks, L 1 where models share and N where they do not, M models and R numbers of
each in a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn import functional

from kernels.multitask_distillation.given import Given
from kernels.multitask_distillation.reference import soft_labels

PIECE = 2**14
"""M R, about: a few tensors of that size stay in the second cache, and malloc hands the same ones out again."""


class Term(NamedTuple):
    """A term of the loss, of all numbers [L, B k] or of a piece's [1 or M, R].

    Attributes:
        kind: `label`, `soft` or `logit`.
        weights: c, with the term's own weight.
        targets: y, q or t.
    """

    kind: str
    weights: Tensor
    targets: Tensor


class Piece(NamedTuple):
    """Some models' numbers at some places.

    Attributes:
        members, places: which.
        logits: z, [M, R].
        scale, shift: the adapter's, [1 or M, R]; None without.
        terms: the loss's.
    """

    members: slice
    places: slice
    logits: Tensor
    scale: Tensor | None
    shift: Tensor | None
    terms: list[Term]

    def seen_by(self, term: Term) -> Tensor:
        """The logits that a term compares."""
        if term.kind != "soft" or self.scale is None or self.shift is None:
            return self.logits
        return torch.addcmul(self.shift, self.scale, self.logits)


def forward(given: Given) -> Tensor:
    """Losses [N]."""
    losses = given.logits.new_zeros(len(given.logits))
    for piece in _pieces(given):
        for term in piece.terms:
            losses[piece.members] += _loss(term, piece.seen_by(term))
    return losses


def backward(grad: Tensor, given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the logits [N, B, k], of the adapters' scale and shift [L, k] (empty without), from that [N]."""
    logits, tasks = given.logits, given.logits.shape[2]
    dz = torch.empty_like(logits, memory_format=torch.contiguous_format)
    adapter = [logits.new_zeros(len(logits), tasks) for _ in range(2)]
    for piece in _pieces(given):
        factors = grad[piece.members].unsqueeze(1)
        total = dz.flatten(1)[piece.members, piece.places].zero_()
        for term in piece.terms:
            slope = _slope(term, piece.seen_by(term)).mul_(factors)
            if term.kind == "soft" and piece.scale is not None:
                for d, x in zip(adapter, (slope * piece.logits, slope), strict=True):
                    d[piece.members] += x.unflatten(1, (-1, tasks)).sum(1)
                slope *= piece.scale
            total += slope
    d_scale, d_shift = adapter
    return dz, _shared(d_scale, given.adapter_scale), _shared(d_shift, given.adapter_shift)


def _shared(gradient: Tensor, of: Tensor | None) -> Tensor:
    """The gradient [L, k] of what is that shape, from each model's [N, k]; empty of None."""
    if of is None:
        return gradient.new_empty(0)
    return gradient.sum(0, keepdim=True) if len(of) == 1 else gradient


def _loss(term: Term, z: Tensor) -> Tensor:
    """Each model's sum of c (log(1 + exp(z)) - y z), or of c (z - t)^2, [M]."""
    if term.kind == "logit":
        gap = z - term.targets
        return vecdot(term.weights * gap, gap)
    pulled = vecdot((1 - term.targets).mul_(term.weights), z)
    return pulled - vecdot(term.weights, functional.logsigmoid(z))


def _slope(term: Term, z: Tensor) -> Tensor:
    """c (sigmoid(z) - y), or 2 c (z - t), [M, R]."""
    if term.kind == "logit":
        return (z - term.targets).mul_(term.weights).mul_(2)
    return z.sigmoid().sub_(term.targets).mul_(term.weights)


def _terms(given: Given) -> list[Term]:
    terms = []
    if given.labels is not None and given.label_weights is not None:
        terms.append(Term("label", given.label_weights.flatten(1), given.labels.flatten(1)))
    if given.teacher_logits is not None and given.teacher_weights is not None:
        weights, teacher = given.teacher_weights.flatten(1), given.teacher_logits.flatten(1)
        if given.soft_weight:
            terms.append(Term("soft", given.soft_weight * weights, soft_labels(teacher, given.label_scaling)))
        if given.logit_weight:
            terms.append(Term("logit", given.logit_weight * weights, teacher))
    return terms


def _pieces(given: Given) -> Iterator[Piece]:
    """All numbers of all models; a piece ends with a row."""
    models, rows, tasks = given.logits.shape
    terms, adapter = _terms(given), (given.adapter_scale, given.adapter_shift)
    length = max(min(PIECE // tasks, rows), 1)
    abreast = max(PIECE // (length * tasks), 1)
    flat = given.logits.flatten(1).contiguous()
    for first_model in range(0, models, abreast):
        members = slice(first_model, first_model + abreast)
        own = [Term(kind, _of(c, members), _of(y, members)) for kind, c, y in terms]
        scales, shifts = (None if x is None else _of(x, members).repeat(1, length) for x in adapter)
        for first in range(0, rows * tasks, length * tasks):
            at = slice(first, min(first + length * tasks, rows * tasks))
            parts = [Term(kind, c[:, at], y[:, at]) for kind, c, y in own]
            scale_here, shift_here = (
                None if x is None else x[:, : at.stop - first] for x in (scales, shifts)
            )
            yield Piece(members, at, flat[members, at], scale_here, shift_here, parts)


def _of(x: Tensor, members: slice) -> Tensor:
    """What some models see of [L, ...]."""
    return x if len(x) == 1 else x[members]
