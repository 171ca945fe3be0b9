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


def forward(
    logits: Tensor,
    labels: Tensor | None,
    label_weights: Tensor | None,
    teacher_logits: Tensor | None,
    teacher_weights: Tensor | None,
    adapter_scale: Tensor | None,
    adapter_shift: Tensor | None,
    soft_weight: float,
    logit_weight: float,
    label_scaling: float,
) -> Tensor:
    """Losses [N].

    Args:
        logits: [N, B, k].
        labels, teacher_logits: [L, B, k]; None without their terms.
        label_weights, teacher_weights: [L, B, k], c of each row.
        adapter_scale, adapter_shift: [L, k].
        soft_weight, logit_weight: factors on c in the teacher's terms; 0 leaves one out.
        label_scaling: factor on the teacher's probability.
    """
    teacher = teacher_logits, teacher_weights, soft_weight, logit_weight, label_scaling
    terms, losses = _terms(labels, label_weights, *teacher), logits.new_zeros(len(logits))
    for piece in _pieces(logits, terms, adapter_scale, adapter_shift):
        for term in piece.terms:
            losses[piece.members] += _loss(term, piece.seen_by(term))
    return losses


def backward(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor | None,
    label_weights: Tensor | None,
    teacher_logits: Tensor | None,
    teacher_weights: Tensor | None,
    adapter_scale: Tensor | None,
    adapter_shift: Tensor | None,
    soft_weight: float,
    logit_weight: float,
    label_scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the logits [N, B, k], of the adapters' scale and shift [L, k] (empty without), from that [N]."""
    teacher = teacher_logits, teacher_weights, soft_weight, logit_weight, label_scaling
    terms, tasks = _terms(labels, label_weights, *teacher), logits.shape[2]
    dz = torch.empty_like(logits, memory_format=torch.contiguous_format)
    adapter = [logits.new_zeros(len(logits), tasks) for _ in range(2)]
    for piece in _pieces(logits, terms, adapter_scale, adapter_shift):
        factors = grad[piece.members].unsqueeze(1)
        total = dz.flatten(1)[piece.members, piece.places].zero_()
        for term in piece.terms:
            slope = _slope(term, piece.seen_by(term)).mul_(factors)
            if term.kind == "soft" and piece.scale is not None:
                for d, x in zip(adapter, (slope * piece.logits, slope), strict=True):
                    d[piece.members] += x.unflatten(1, (-1, tasks)).sum(1)
                slope *= piece.scale
            total += slope
    d_scale, d_shift = (_shared(d, x) for d, x in zip(adapter, (adapter_scale, adapter_shift), strict=True))
    return dz, d_scale, d_shift


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


def _terms(
    labels: Tensor | None,
    label_weights: Tensor | None,
    teacher_logits: Tensor | None,
    teacher_weights: Tensor | None,
    soft_weight: float,
    logit_weight: float,
    label_scaling: float,
) -> list[Term]:
    terms = []
    if labels is not None and label_weights is not None:
        terms.append(Term("label", label_weights.flatten(1), labels.flatten(1)))
    if teacher_logits is not None and teacher_weights is not None:
        weights, teacher = teacher_weights.flatten(1), teacher_logits.flatten(1)
        if soft_weight:
            terms.append(Term("soft", soft_weight * weights, soft_labels(teacher, label_scaling)))
        if logit_weight:
            terms.append(Term("logit", logit_weight * weights, teacher))
    return terms


def _pieces(logits: Tensor, terms: list[Term], scale: Tensor | None, shift: Tensor | None) -> Iterator[Piece]:
    """All numbers of all models; a piece ends with a row."""
    models, rows, tasks = logits.shape
    length = max(min(PIECE // tasks, rows), 1)
    abreast = max(PIECE // (length * tasks), 1)
    flat = logits.flatten(1).contiguous()
    for first_model in range(0, models, abreast):
        members = slice(first_model, first_model + abreast)
        own = [Term(kind, _of(c, members), _of(y, members)) for kind, c, y in terms]
        scales, shifts = (None if x is None else _of(x, members).repeat(1, length) for x in (scale, shift))
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
