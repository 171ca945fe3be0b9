"""CPU path of jagged mixing: weighted sums of rows of a table, as embedding bags compute them.

A token's result is the sum of its example's M rows, weighted by its M numbers: a bag of M rows. The gradient of
a row of a matrix is the sum of its example's gradients, weighted by one number of each token: a bag of tokens.
Nothing is padded, copied out or grouped, so that rows of any lengths cost the same per token.

Shape letters: B rows (examples), T tokens of all rows, M numbers per token, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_SUM, _NO_PADDING = 0, -1
weights_backward = torch.ops.aten._embedding_bag_per_sample_weights_backward


def forward(values: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Y_t = v_t A_b: values [T, M], matrices [B, M, D], offsets int64 [B + 1] to [T, D]."""
    tokens, mixed = values.shape
    return _weighted_sums(
        matrices.flatten(0, 1), _table_rows(offsets, tokens, mixed), _bags(tokens, mixed), values.flatten()
    )


def backward(grad: Tensor, values: Tensor, matrices: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """dv_t = A_b dY_t, and dA_b = sum over the row's tokens of v_t dY_t, from dY [T, D]."""
    (tokens, mixed), grad = values.shape, grad.contiguous()
    d_values = weights_backward(
        grad,
        matrices.flatten(0, 1),
        _table_rows(offsets, tokens, mixed),
        _bags(tokens, mixed)[:-1],
        torch.arange(tokens).repeat_interleave(mixed),
        _SUM,
        _NO_PADDING,
    ).view(tokens, mixed)
    # A call for each of the M: one for all of them would write down and read the tokens M times.
    places = torch.arange(tokens)
    of_numbers = [_weighted_sums(grad, places, offsets, weights) for weights in values.t().contiguous()]
    return d_values, torch.stack(of_numbers, 1)


def _weighted_sums(table: Tensor, rows: Tensor, bags: Tensor, weights: Tensor) -> Tensor:
    """Per bag, the sum of the table's rows in it: rows int64 [n], bags their offsets, weights [n]."""
    return embedding_bag(rows, table, bags, mode="sum", include_last_offset=True, per_sample_weights=weights)


def _table_rows(offsets: Tensor, tokens: int, mixed: int) -> Tensor:
    """int64 [T * M]: for each token the rows of its example's matrix in all matrices, one below the other."""
    of_examples = torch.arange((len(offsets) - 1) * mixed).view(-1, mixed)
    return of_examples.repeat_interleave(offsets.diff(), 0, output_size=tokens).flatten()


def _bags(tokens: int, mixed: int) -> Tensor:
    """int64 [T + 1]: M rows for every token."""
    return torch.arange(tokens + 1) * mixed
