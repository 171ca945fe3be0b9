"""Parts that students are made of, written for few and cheap operations: a student's step is milliseconds.

Shape letters: B examples, F fields, D embedding dim, T events of the whole batch, W any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.segments import Segments, spread


class MLP(nn.Sequential):
    """Linear layers, each followed by an activation: [B, width] to [B, hidden[-1]].

    Args:
        width: of the input.
        hidden: widths of the layers.
        activation: relu, prelu or dice.
    """

    def __init__(self, width: int, hidden: Sequence[int], activation: str = "relu"):
        super().__init__()
        for before, after in zip([width, *hidden], hidden, strict=False):
            self.extend([nn.Linear(before, after), make_activation(activation, after)])


def make_activation(name: str, width: int) -> nn.Module:
    """An activation by its name: relu, prelu or dice, for [*, width]."""
    return nn.ReLU(inplace=True) if name == "relu" else {"prelu": PReLU, "dice": Dice}[name](width)


class PReLU(nn.Module):
    """max(x, 0) + a * min(x, 0) with one slope a for each channel, 0.25 at first (arXiv 1502.01852).

    `nn.PReLU` takes 1.2 to 2 times as long on CPU (experiments/benchmarks/student_parts.py).

    Args:
        width: number of channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.slope = nn.Parameter(torch.full((width,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return _PReLU.apply(x, self.slope)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        low = x.clamp_max(0)
        ctx.save_for_backward(low, slope)
        return torch.addcmul(x, low, slope - 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        low, slope = ctx.saved_tensors
        # sign(low) is -1 where x < 0 and 0 elsewhere.
        return torch.addcmul(gradient, gradient * low.sign(), 1 - slope), (gradient * low).sum(0)


class Dice(nn.Module):
    """p * x + (1 - p) * a * x with p = sigmoid of x standardised over the batch (DIN, arXiv 1706.06978, eq.
    3).

    A batch of fewer than two rows has no spread: the running statistics stand in, as in evaluation.

    Args:
        width: number of channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=1e-8, affine=False)
        self.slope = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        training = self.training and len(x) > 1
        standard = functional.batch_norm(
            x, norm.running_mean, norm.running_var, training=training, momentum=0.1, eps=norm.eps
        )
        scaled = self.slope * x
        return torch.addcmul(scaled, standard.sigmoid(), x - scaled)


class DotInteraction(nn.Module):
    """Dot products of all pairs of fields: [B, F, D] to [B, F * (F - 1) / 2] (DLRM, arXiv 1906.00091).

    Pairs are those of `torch.tril_indices(F, F, -1)`. Both directions gather by fixed places: the gradient is
    the symmetric matrix of the pairs' gradients times the fields.

    Args:
        fields: F.
    """

    pairs: Tensor
    symmetric: Tensor

    def __init__(self, fields: int):
        super().__init__()
        row, column = torch.tril_indices(fields, fields, -1)
        self.width = row.numel()
        # Which gradient each entry of the matrix reads; the diagonal reads a column of zeros at the end.
        symmetric = torch.full((fields, fields), self.width)
        symmetric[row, column] = symmetric[column, row] = torch.arange(self.width)
        self.register_buffer("pairs", row * fields + column, persistent=False)
        self.register_buffer("symmetric", symmetric.flatten(), persistent=False)

    def forward(self, fields: Tensor) -> Tensor:
        return _DotPairs.apply(fields, self.pairs, self.symmetric)


class _DotPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fields: Tensor, pairs: Tensor, symmetric: Tensor) -> Tensor:
        ctx.save_for_backward(fields, symmetric)
        return torch.bmm(fields, fields.transpose(1, 2)).flatten(1).index_select(1, pairs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        fields, symmetric = ctx.saved_tensors
        gradient = gradients[0].to(fields.dtype)  # under autocast it comes in bfloat16
        entries = functional.pad(gradient, (0, 1)).index_select(1, symmetric)
        return torch.bmm(entries.view(len(fields), fields.size(1), fields.size(1)), fields), None, None


class SecondOrder(torch.autograd.Function):
    """Sum of the dot products of all pairs of fields: [B, F, D] to [B, 1] (factorization machine).

    Half of the squared sum minus the sum of squares, so linear in F; the gradient of a field is the sum of
    the others.
    """

    @staticmethod
    def forward(ctx: Any, fields: Tensor) -> Tensor:
        total = fields.sum(1)
        ctx.save_for_backward(fields, total)
        flat = fields.flatten(1)
        return 0.5 * (torch.linalg.vecdot(total, total) - torch.linalg.vecdot(flat, flat)).unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        fields, total = ctx.saved_tensors
        return (total.unsqueeze(1) - fields).mul_(gradients[0].unsqueeze(2))


class CrossLayer(nn.Module):
    """x0 * (W x + b) + x, elementwise product, with W full or U V^T (DCN-v2, arXiv 2008.13535, eq. 1 and 2).

    Args:
        width: of x0 and x.
        rank: of W; 0 for a full matrix.
    """

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False) if rank else nn.Identity()
        self.up = nn.Linear(rank or width, width)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        return _GatedSum.apply(x, first, self.up(self.down(x)))


class _GatedSum(torch.autograd.Function):
    """x + a * b. The gradient of `torch.addcmul` multiplies four times, once by its factor 1; here twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.addcmul(x, a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        a, b = ctx.saved_tensors
        return gradient, gradient * b, gradient * a


class ActivationUnit(nn.Module):
    """One weight for each event, from the event and its example's target (DIN, arXiv 1706.06978, figure 2).

    An MLP over [e, t, e - t, e * t] with one output. The first layer is folded exactly: its matrix is cut by
    those four inputs, so that t passes through it once per example and [T, 4 * D] never exists.

    Args:
        dim: D.
        hidden: widths of the hidden layers.
        activation: prelu or dice.
    """

    def __init__(self, dim: int, hidden: Sequence[int], activation: str):
        super().__init__()
        self.first = nn.Linear(4 * dim, hidden[0])
        self.between = nn.Sequential()
        for before, after in zip(hidden, hidden[1:], strict=False):
            self.between.extend([make_activation(activation, before), nn.Linear(before, after)])
        self.activation = make_activation(activation, hidden[-1])
        self.last = nn.Linear(hidden[-1], 1)

    def forward(self, events: Tensor, target: Tensor, segments: Segments) -> Tensor:
        """Weights, float [T], of events [T, D] beside targets [B, D]."""
        of_event, of_target, of_difference, of_product = self.first.weight.chunk(4, dim=1)
        once = functional.linear(target, of_target - of_difference, self.first.bias)
        # Autocast casts nothing for operations in place: `once` says in which type to compute.
        x, products = spread(once, segments), events * spread(target, segments)
        x = x.addmm_(events.to(x.dtype), (of_event + of_difference).t().to(x.dtype))
        x = x.addmm_(products.to(x.dtype), of_product.t().to(x.dtype))
        x = self.between(x)
        if isinstance(self.activation, PReLU):
            # a * x + (1 - a) * relu(x), then a linear layer: two products with vectors, no pass over [T, W].
            weight, slope = self.last.weight, self.activation.slope
            falling = functional.linear(x, weight * slope, self.last.bias)
            return (falling + functional.linear(torch.relu(x), weight * (1 - slope))).squeeze(1)
        return self.last(self.activation(x)).squeeze(1)
