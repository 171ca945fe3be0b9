"""DeepFM of N members: from the look-up to the factorization machine and the MLP's input in one operation of autograd.

A look-up gives an example's rows of all members side by side. They are read in that order and written once, where the
MLP's first layer reads them, and so in the backward pass: no pass over all activations only moves or adds them.

Shape letters: N members, B examples, F fields, D embedding dim, C columns of a row, M dense features, k tasks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional

from distill.batch import Batch
from distill.protocols import Output
from students.deepfm import FIRST_ORDER_SCALE, DeepFM


def output(student: DeepFM, rows: Tensor, batch: Batch) -> Output:
    """What `DeepFM.forward` says of folded rows.

    Args:
        student: with stacked layers.
        rows: [N, B, F, C], fastest where an example's rows of all members lie side by side.
        batch: folded; its dense features are [N * B, M].
    """
    dense = batch.dense if student.dense_features else batch.dense[:, :0]
    flat, weights, second_order = _Crossed.apply(rows, dense, student.dim, len(student.tasks))
    first_order = FIRST_ORDER_SCALE * weights
    if student.first_order is not None:
        first_order = first_order + student.first_order(dense)
    penultimate = torch.cat([student.deep(flat), first_order, second_order], dim=1)
    return student.output(flat[:, : flat.size(1) - dense.size(1)], penultimate)


class _Crossed(torch.autograd.Function):
    """Rows to the MLP's input [N * B, F * D + M], sums of first-order weights [N * B, k], second order [N * B, 1].

    Every number is computed in the same way wherever it lies, so that a member's do not depend on who else is there:
    products and sums are rounded one by one, where `addcmul` might round them together in some places only.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, dense: Tensor, dim: int, tasks: int) -> tuple[Tensor, Tensor, Tensor]:
        members, batch, fields = rows.shape[:3]
        ctx.shape, ctx.dim, width = rows.shape, dim, fields * dim
        flat = rows.new_empty(members * batch, width + dense.size(1))
        embeddings = flat[:, :width]
        _unfolded(embeddings, rows.shape).copy_(rows[..., :dim])
        flat[:, width:] = dense
        total = _over_fields(rows)
        second_order = 0.5 * (_squared(total[..., :dim].flatten(0, 1)) - _squared(embeddings))
        ctx.save_for_backward(flat, total)
        return flat, total[..., dim : dim + tasks].flatten(0, 1), second_order.unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        of_flat, of_weights, of_second_order = gradients
        flat, total = ctx.saved_tensors
        members, batch, fields, columns = ctx.shape
        dim, width = ctx.dim, fields * ctx.dim
        # Of a field's embedding: the first layer's, and by the second order the sum of the fields but itself.
        of_embeddings = flat[:, :width] * of_second_order
        torch.sub(of_flat[:, :width], of_embeddings, out=of_embeddings)
        # Alike for all fields: that sum; of the weights the first order's; of the other columns nothing.
        alike = torch.zeros_like(total)
        torch.mul(total[..., :dim], of_second_order.view(members, batch, 1), out=alike[..., :dim])
        alike[..., dim : dim + of_weights.size(1)] = of_weights.view(members, batch, -1)
        wide = flat.new_empty(batch, fields, members, columns)
        gradient = wide.copy_(_wide(alike.unsqueeze(2))).permute(2, 0, 1, 3)
        gradient[..., :dim] += _unfolded(of_embeddings, ctx.shape)
        return gradient, None, None, None


def _squared(rows: Tensor) -> Tensor:
    """Sums of squares over the last dimension, in one pass."""
    return vector_norm(rows, dim=-1).square_()


def _unfolded(flat: Tensor, shape: torch.Size) -> Tensor:
    """Embeddings [N * B, F * D] as [N, B, F, D], a view."""
    members, batch, fields, _ = shape
    return flat.view(members, batch, -1).unflatten(2, (fields, -1))


def _wide(rows: Tensor) -> Tensor:
    """Rows [N, B, F, C] with those of all members side by side, [B, F, N, C]."""
    return rows.permute(1, 2, 0, 3)


def _over_fields(rows: Tensor) -> Tensor:
    """Sums over the fields, [N, B, C].

    `embedding_bag` adds every column in the order of the fields; `sum` would in an order that depends on its place.
    """
    members, batch, fields, columns = rows.shape
    wide = _wide(rows).reshape(batch * fields, members * columns)
    places = torch.arange(batch * fields, device=rows.device)
    total = functional.embedding_bag(places, wide, places[::fields].contiguous(), mode="sum")
    return total.view(batch, members, columns).transpose(0, 1)
